"""Resolves the selection of a configuration: source of the maps, devices and backends."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from distributed_pose.backends.registry import candidates, entries, owners, resolve_backend
from distributed_pose.config.schema import RunConfig
from distributed_pose.devices.kinds import CPU, CUDA, KINDS, accelerators
from distributed_pose.errors import ConfigError
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.devices import Simulation
from distributed_pose.records.images import InputSize

# Source of a run's maps: the user's model, recorded maps, or the ground truth.
Source = Literal["model", "recording", "truth"]

_ONE_SCALE = (1.0,)

# Batch sizes that a sweep measures.
_SWEPT = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True, slots=True)
class KindSelection:
    """The settings of a run for devices of one kind.

    Attributes:
        backend: configured name of the backend, which may be `auto` or lack its variant.
        candidates: full names of the backends that the name can mean, best first.
        precision: configured precision, which may be `auto`.
        batch_sizes: largest number of images in a batch; of several, a sweep on the device finds
            the best.
    """

    backend: str
    candidates: tuple[str, ...]
    precision: str
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The selection of a run, resolved once from its configuration.

    Attributes:
        source: source of the maps that the backends return.
        kinds: backend, precision and batch sizes by kind of device.
        devices: requested devices, or `auto` alone.
        auto_kinds: kinds of accelerators that `devices: auto` uses.
        cpus: number of CPUs of each CPU worker; None for its share of those of its node.
        workers_per_device: number of workers per device, for each kind that may have several.
        soc: name of the Ascend chip to compile for; empty for the one that a node reports.
        profile: name of the preprocessing profile.
        input_size: size of the network inputs; None for `auto`, until the model is read.
        scales: scale factors whose maps are averaged.
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
        gather: `maps` or `poses`, which the workers return; `auto` until the devices are ready.
        maps_dtype: `f32` or `f16`, type of the maps before they are grouped.
        damaged: `keep` or `fail`, treatment of damaged images that still decode.
        dump_folder: folder that the workers write the maps to; empty for none.
        simulation: settings of simulated devices.
        feeders: number of images that each worker prepares at once; 0 for as many as the rate of
            its device asks for.
    """

    source: Source
    kinds: Mapping[str, KindSelection]
    devices: tuple[str, ...]
    auto_kinds: tuple[str, ...]
    cpus: int | None
    workers_per_device: Mapping[str, int]
    soc: str
    profile: str
    input_size: InputSize | None
    scales: tuple[float, ...]
    keypoints: KeypointSet
    gather: str
    maps_dtype: str
    damaged: str
    dump_folder: str
    simulation: Simulation
    feeders: int

    @property
    def runs_model(self) -> bool:
        """Whether the run executes a model, and does not only replay or use the ground truth."""
        return self.source == "model"

    @property
    def uses_int8(self) -> bool:
        """Whether devices of some kind compute in int8, which needs calibration data."""
        return any(kind.precision == "int8" for kind in self.kinds.values())

    def runs_on(self, kind: str) -> bool:
        """Returns whether the configured backend of a kind of device runs on it."""
        return _runs_on(self.kinds[kind].backend, kind)


def select(config: RunConfig) -> Selection:
    """Returns what a configuration selects, checked as far as possible before devices are known.

    Raises:
        ConfigError: if a backend does not run on the requested devices or lacks the precision, or
            if some backends run the model while others answer from annotations or recorded maps,
            or if the file of the keypoint set cannot be used, or if something that is configured
            works at one scale only.
    """
    used = [*_used_kinds(config)]
    for kind in used:
        settings = config.on(kind)
        resolve_backend(settings.backend, kind, settings.precision)
    kinds = {kind: _kind_selection(config, kind) for kind in KINDS}
    _check_host(config, [kinds[kind].backend for kind in used])
    _check_scales(config, [kinds[kind].backend for kind in used])
    return Selection(
        source=_source([kinds[kind].backend for kind in used]),
        kinds=kinds,
        devices=config.devices,
        auto_kinds=tuple(kind for kind in accelerators() if _is_automatic(kinds[kind], kind)),
        cpus=config.cpu.cpus,
        workers_per_device={CUDA: config.cuda.workers_per_device},
        soc=config.npu.soc or "",
        profile=config.profile,
        input_size=config.input_size,
        scales=config.scales,
        keypoints=read_keypoint_set(config.keypoints) if config.keypoints else coco_body(),
        # The maps of all scales of an image are grouped together, where they are.
        gather="poses" if len(config.scales) > 1 else config.gather,
        maps_dtype=config.maps_dtype,
        damaged=config.data.damaged,
        # The path is absolute, because workers have other working directories.
        dump_folder=str(config.dump_maps.absolute()) if config.dump_maps else "",
        simulation=config.simulated.simulation,
        feeders=0 if config.feeders == "auto" else config.feeders,
    )


def check_computes(selection: Selection) -> None:
    """Checks that a run has something to measure.

    Raises:
        ConfigError: if the run answers from recorded maps.
    """
    if selection.source == "recording":
        raise ConfigError(
            "backend recorded runs no model, and there is nothing to measure", "set backend"
        )


def check_one_scale(selection: Selection, command: str) -> None:
    """Checks that a run has one scale, for a command that measures the maps of one.

    Raises:
        ConfigError: if it is.
    """
    if selection.scales != _ONE_SCALE:
        raise ConfigError(
            f"scales: {command} measures the maps of scale 1 alone", "leave scales out"
        )


def foreign_code(config: RunConfig) -> str:
    """Returns the other distributions whose backends or kinds a run can use; empty for none.

    Each is preceded by a comma, as in `, tvm-pose 1.2`.
    """
    found = {
        owner for kind in KINDS for owner in owners(candidates(config.on(kind).backend, kind), kind)
    }
    return "".join(f", {name} {version}" for name, version in sorted(found))


def _kind_selection(config: RunConfig, kind: str) -> KindSelection:
    settings = config.on(kind)
    size = settings.batch_size
    return KindSelection(
        backend=settings.backend,
        candidates=candidates(settings.backend, kind),
        precision=settings.precision,
        batch_sizes=_SWEPT if size == "auto" else (size,),
    )


def _used_kinds(config: RunConfig) -> Iterator[str]:
    """Yields the kinds of devices that a run is known to use."""
    if config.devices != ("auto",):
        yield from sorted({request.partition(":")[0] for request in config.devices})
    elif config.backend == "auto":
        yield CPU
    else:
        yield next((kind for kind in KINDS if _runs_on(config.backend, kind)), CPU)


def _source(backends: list[str]) -> Source:
    """Returns the source of the backends' maps, which must be the same for all of them.

    Raises:
        ConfigError: if it differs.
    """
    sources = {_source_of(name) for name in backends}
    if len(sources) > 1:
        raise ConfigError(
            f"backends {', '.join(sorted({*backends}))} cannot be in one run: some answer from the "
            "annotations or a recording, and not from the model"
        )
    return sources.pop()


def _check_host(config: RunConfig, backends: list[str]) -> None:
    """Checks that simulated cores work for simulated devices only.

    Raises:
        ConfigError: if a backend looks at the pixels of the images.
    """
    others = sorted({name for name in backends if name.partition(":")[0] != "simulated"})
    if config.simulated.host.cores and others:
        raise ConfigError(
            f"simulated.host: backend {', '.join(others)} needs the pixels of the images, which "
            "simulated cores do not make",
            "set backend=simulated, or leave simulated.host.cores out",
        )


def _check_scales(config: RunConfig, backends: list[str]) -> None:
    """Checks that all that is configured works at the configured scales.

    Raises:
        ConfigError: if it does not; says why.
    """
    if config.scales == _ONE_SCALE:
        return
    names = {name.partition(":")[0] for name in backends}
    if config.profile != "upstream":
        raise ConfigError(
            f"scales: profile {config.profile} has inputs of one size, to which every image is "
            "scaled",
            "set profile=upstream, or leave scales out",
        )
    if fixed := sorted(names & {"recorded", "simulated"}):
        raise ConfigError(
            f"scales: backend {fixed[0]} has the maps or the rate of one scale",
            "leave scales out",
        )
    if config.dump_maps:
        raise ConfigError(
            "scales: a recording of dump_maps has the maps of one scale",
            "leave scales or dump_maps out",
        )
    if len(config.scales) > 1 and config.gather == "maps":
        raise ConfigError(
            "scales: only workers can average the maps of several scales",
            "set gather=poses or gather=auto",
        )


def _source_of(backend: str) -> Source:
    if backend == "auto" or all(found.runs_model for found in entries(backend)):
        return "model"
    return "recording" if all(found.replays for found in entries(backend)) else "truth"


def _is_automatic(settings: KindSelection, kind: str) -> bool:
    """Returns whether `devices: auto` uses the accelerators of a kind.

    It does if their configured backend runs on them. Fakes use no accelerators, since they run no
    model.
    """
    return _source_of(settings.backend) == "model" and _runs_on(settings.backend, kind)


def _runs_on(backend: str, kind: str) -> bool:
    return backend == "auto" or any(found.runs_on(kind) for found in entries(backend))
