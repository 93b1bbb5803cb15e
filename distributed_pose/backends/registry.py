"""The backends by name. A backend and its vendor's SDK load only on first use."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from distributed_pose.backends import table
from distributed_pose.backends.spec import BackendSpec
from distributed_pose.devices.kinds import KINDS
from distributed_pose.errors import ConfigError, SetupError, first_line
from distributed_pose.packages import Registry, load
from distributed_pose.records.images import InputSize
from distributed_pose.records.models import CompileSpec

if TYPE_CHECKING:
    from distributed_pose.backends.base import Backend, BackendFactory, BackendOptions

AUTO = "auto"


def _names(backends: Mapping[str, BackendSpec]) -> Iterator[str]:
    """Yields the names that a configuration can have, such as `torch` and then `torch:cpu`."""
    # Names without a variant, each with the names that begin with it. A dict keeps the order.
    by_base: dict[str, dict[str, None]] = {}
    for key, found in backends.items():
        base = key.partition(":")[0]
        names = (key, *(f"{key}:{variant}" for variant in found.variants))
        by_base.setdefault(base, {base: None}).update(dict.fromkeys(names))
    yield from chain.from_iterable(by_base.values())


# The order of the entries is the order in which `auto` tries them. The backends of other
# distributions follow those of this package.
BACKENDS: Registry[BackendSpec] = Registry(
    "distributed_pose.backends",
    BackendSpec,
    table.BACKENDS,
    names="[a-z0-9][a-z0-9_-]*(:[a-z0-9_-]+)?",
    reserved=(AUTO, *_names(table.BACKENDS)),
)


def backend_names() -> tuple[str, ...]:
    """Returns the names that a configuration can have, in the order of the table."""
    return (AUTO, *_names(BACKENDS.working()))


def targets(backends: Mapping[str, BackendSpec]) -> tuple[str, ...]:
    """Returns the targets of `compile --for`; those that end in `SOC` end in the name of a chip.

    Args:
        backends: backends by name.
    """
    offered = [found for found in backends.values() if found.target]
    plain = [found.target for found in offered if found.bound_to != "chip"]
    return (*plain, *(f"{found.target}SOC" for found in offered if found.bound_to == "chip"))


def entry(name: str) -> BackendSpec:
    """Returns the entry of a resolved name, or of the name without its variant for a fake.

    Raises:
        SetupError: if this machine has no such backend.
    """
    for key in (name, name.partition(":")[0]):
        if key in BACKENDS:
            return BACKENDS[key]
    raise SetupError(
        f"there is no backend {name} on this machine",
        "install the package that registers it on all nodes",
    )


def is_fake(name: str) -> bool:
    """Returns whether a backend of a report answers from the ground truth; it need not exist here.

    Args:
        name: resolved name of the backend.
    """
    found = BACKENDS.working()
    spec = found.get(name) or found.get(name.partition(":")[0])
    return spec is not None and spec.is_fake


def entries(name: str) -> list[BackendSpec]:
    """Returns the entries that a name can mean: those of all variants if it names none."""
    if name in BACKENDS:
        return [BACKENDS[name]]
    return [BACKENDS[key] for key in _variants(name)] or [entry(name)]


def candidates(name: str, kind: str) -> tuple[str, ...]:
    """Returns the backends that a configured name can mean on devices of a kind, best first.

    Args:
        name: configured name: `auto`, a full name, or a name without its variant.
        kind: kind of the devices.
    """
    if name == AUTO:
        return tuple(key for key, found in BACKENDS.working().items() if _is_real(found, kind))
    # A full name, or the variant of a fake, stands for itself.
    if name in BACKENDS or name.partition(":")[0] in BACKENDS:
        return (name,)
    variants = _variants(name)
    # If no variant runs on this kind of device, one of them stands for the name in messages.
    return tuple(key for key in variants if BACKENDS[key].runs_on(kind)) or variants[:1] or (name,)


def owners(names: Iterable[str], kind: str) -> set[tuple[str, str]]:
    """Returns name and version of the other distributions that register backends or a kind.

    Args:
        names: names of backends, with their variants.
        kind: kind of the devices.
    """
    keys = (name if name in BACKENDS else name.partition(":")[0] for name in names)
    found = {KINDS.distribution(kind), *map(BACKENDS.distribution, keys)}
    return {owner for owner in found if owner}


def resolve_backend(name: str, kind: str, precision: str) -> str:
    """Returns the best backend that a configuration can mean on devices of a kind.

    Args:
        name: configured name of the backend.
        kind: kind of the devices.
        precision: configured precision.

    Raises:
        ConfigError: if the backend does not run on this kind, or does not have the precision.
        SetupError: if this machine has no such backend.
    """
    resolved = next(iter(candidates(name, kind)), "")
    if not resolved:
        raise SetupError(
            f"no backend runs on devices of kind {kind}", "install a package that registers one"
        )
    chosen = entry(resolved)
    if not chosen.runs_on(kind):
        raise ConfigError(
            f"backend {name} does not run on devices of kind {kind}",
            f"set {kind}.backend, or choose devices of kind {' or '.join(chosen.kinds)}",
        )
    if precision not in {"auto", *chosen.precisions}:
        raise ConfigError(
            f"precision: {precision} is not available on backend {resolved}",
            f"available: auto, {', '.join(chosen.precisions)}",
        )
    return resolved


def resolve_precision(backend: str, precision: str) -> str:
    """Returns the precision that a configuration means on a resolved backend.

    Returns `auto` unchanged where the backend chooses a precision that the device supports.
    """
    return entry(backend).default if precision == "auto" else precision


def compile_spec(
    backend: str,
    precision: str,
    profile: str,
    batch_sizes: tuple[int, ...] = (1,),
    target: str = "",
    input_size: InputSize | None = None,
) -> CompileSpec:
    """Returns the specification of the artifact of a resolved backend; see `CompileSpec`."""
    found = entry(backend)
    return CompileSpec(
        backend=backend,
        precision=precision,
        profile=profile,
        batch_sizes=batch_sizes,
        target=target,
        compiler=found.compiler,
        model_formats=found.model_formats,
        input_size=input_size,
    )


def open_backend(name: str, content: bytes, options: "BackendOptions") -> "Backend":
    """Opens a backend and returns it; see `base.BackendFactory`.

    Raises:
        SetupError: if the backend cannot be loaded or opened, which names missing requirements, or
            if it computes in another precision than the requested one.
    """
    found = entry(name)
    try:
        factory: BackendFactory = load(found.factory)
    # Broken packages of vendors raise OSError, RuntimeError, AttributeError and more.
    except Exception as error:  # noqa: BLE001
        # A configuration needs the table alone, without the search for libraries.
        from distributed_pose.backends import requirements
        from distributed_pose.devices.lacks import listed, remedies

        if missing := requirements.lacks(found.needs):
            raise SetupError(f"backend {name} lacks {listed(missing)}", remedies(missing)) from None
        raise SetupError(f"backend {name} cannot be loaded: {first_line(error)}") from None
    # A backend imports this module, which a configuration does not need.
    from distributed_pose.backends.base import checked_backend

    opened = factory(content, replace(options, variant=name.partition(":")[2]))
    return checked_backend(opened, options.precision)


def _variants(name: str) -> tuple[str, ...]:
    return tuple(key for key in BACKENDS if key.partition(":")[0] == name)


def _is_real(found: BackendSpec, kind: str) -> bool:
    return found.runs_model and found.runs_on(kind)
