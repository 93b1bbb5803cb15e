"""Checks a configuration's backends and answers questions about them."""

from collections.abc import Iterator

from distributed_pose.backends.registry import candidates, entries, owners, resolve_backend
from distributed_pose.config.schema import RunConfig
from distributed_pose.devices.kinds import CPU, KINDS, accelerators
from distributed_pose.errors import ConfigError


def check_backends(config: RunConfig) -> None:
    """Checks the backends of a configuration as far as possible before any device is known.

    Raises:
        ConfigError: if a backend does not run on the requested devices or lacks the precision, or
            if some backends run the model while others answer from annotations or recorded maps.
    """
    for kind in _kinds(config):
        settings = config.on(kind)
        resolve_backend(settings.backend, kind, settings.precision)
    names = {config.on(kind).backend for kind in _kinds(config)}
    if len({(_runs_model(name), _replays(name)) for name in names}) > 1:
        raise ConfigError(
            f"backends {', '.join(sorted(names))} cannot be in one run: some answer from the "
            "annotations or a recording, and not from the model"
        )


def runs_model(config: RunConfig) -> bool:
    """Returns whether a run needs a model, and does not only replay or use the ground truth."""
    return all(_runs_model(config.on(kind).backend) for kind in _kinds(config))


def replays(config: RunConfig) -> bool:
    """Returns whether a run answers from recorded maps."""
    return all(_replays(config.on(kind).backend) for kind in _kinds(config))


def check_computes(config: RunConfig) -> None:
    """Checks that a configuration has something to measure.

    Raises:
        ConfigError: if the run answers from recorded maps.
    """
    if replays(config):
        raise ConfigError(
            "backend recorded runs no model, and there is nothing to measure", "set backend"
        )


def runs_on(backend: str, kind: str) -> bool:
    """Returns whether a configured backend runs on devices of a kind."""
    return backend == "auto" or any(found.runs_on(kind) for found in entries(backend))


def foreign_code(config: RunConfig) -> str:
    """Returns the other distributions whose backends or kinds a run can use; empty for none.

    Each is preceded by a comma, as in `, tvm-pose 1.2`.
    """
    found = {
        owner for kind in KINDS for owner in owners(candidates(config.on(kind).backend, kind), kind)
    }
    return "".join(f", {name} {version}" for name, version in sorted(found))


def auto_kinds(config: RunConfig) -> tuple[str, ...]:
    """Returns the kinds of accelerators that `devices: auto` uses.

    These are the kinds that their configured backend runs on. Fakes use no accelerators, since they
    run no model.
    """
    names = {kind: config.on(kind).backend for kind in accelerators()}
    return tuple(kind for kind, name in names.items() if _runs_model(name) and runs_on(name, kind))


def _kinds(config: RunConfig) -> Iterator[str]:
    """Yields the kinds of devices that a run is known to use."""
    if config.devices != ("auto",):
        yield from sorted({request.partition(":")[0] for request in config.devices})
    elif config.backend == "auto":
        yield CPU
    else:
        yield next((kind for kind in KINDS if runs_on(config.backend, kind)), CPU)


def _runs_model(backend: str) -> bool:
    return backend == "auto" or all(found.runs_model for found in entries(backend))


def _replays(backend: str) -> bool:
    return backend != "auto" and all(found.replays for found in entries(backend))
