"""The whole flow of a run: dataset and model in, detections and report out."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from distributed_pose.backends.registry import BACKENDS, resolve_backend
from distributed_pose.cluster.engine import Engine, InlineEngine
from distributed_pose.cluster.ledger import Ledger
from distributed_pose.config import RunConfig
from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.data.shards import read_shards
from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.files import sha256_hex
from distributed_pose.metrics.coco_ap import coco_ap
from distributed_pose.metrics.throughput import images_per_s, stage_figures
from distributed_pose.model.artifacts import Artifact, load_model
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.records import DevicePlan, DeviceReady, Memory
from distributed_pose.report.run_report import (
    DataReport,
    DeviceReport,
    ModelReport,
    RunReport,
    Throughput,
    library_versions,
    write_run,
)
from distributed_pose.vision.profiles import PROFILES

_NS = 1e9

# Called with the images of the run and how many of them are settled.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RunInputs:
    """What a run reads, checked before any device is started, and what to tell its user."""

    index: CocoIndex
    folder: Path
    annotations: Path
    backend: str
    model: Artifact
    note: str


@dataclass(frozen=True)
class _Measured:
    """Time before the start line, time from it to the last result, and memory."""

    warmup_ns: int
    wall_ns: int
    memory: Memory


def evaluate(
    config: RunConfig, output: Path | None = None, on_progress: Progress | None = None
) -> RunReport:
    """Returns the report of a run; see `distributed_pose.evaluate`.

    Args:
        config: what to run.
        output: folder for the run's files; None writes nothing.
        on_progress: called when images are settled, first with none of them.
    """
    inputs = read_inputs(config)
    with open_engine(config) as engine:
        return evaluate_on(engine, config, inputs, output, on_progress)


def evaluate_on(
    engine: Engine,
    config: RunConfig,
    inputs: RunInputs,
    output: Path | None = None,
    on_progress: Progress | None = None,
) -> RunReport:
    """Returns the report of a run on an engine that has been entered."""
    ledger = Ledger(inputs.index.images)
    started = perf_counter_ns()
    devices = engine.start(inputs.backend, inputs.model.content)
    ready = perf_counter_ns()
    _run(engine, config, inputs, ledger, on_progress)
    measured = _Measured(ready - started, perf_counter_ns() - ready, engine.memory())
    detections = ledger.detections
    report = _report(config, inputs, ledger, detections, devices, measured)
    if output:
        write_run(output, report, detections, config.model_dump(mode="json"))
    return report


def read_inputs(config: RunConfig) -> RunInputs:
    """Returns what a run reads.

    Raises:
        ConfigError: if a key that the run needs is not set.
        SetupError: if a file is missing or is not what it should be.
    """
    backend = resolve_backend(config.backend, config.precision)
    config, note = _with_demo(config)
    folder = _required(config.data.images, "data.images")
    annotations = _required(config.data.annotations, "data.annotations")
    if BACKENDS[backend].runs_model:
        _required(config.model.path, "model.path")
    if not folder.is_dir():
        raise SetupError(f"{folder} is no folder", "data.images must hold the images")
    index = load_index(annotations, config.data.limit)
    model = _load_model(config, backend, annotations)
    return RunInputs(index, folder, annotations, backend, model, note)


def _load_model(config: RunConfig, backend: str, annotations: Path) -> Artifact:
    if BACKENDS[backend].runs_model:
        model = load_model(_required(config.model.path, "model.path"))
        folds = PROFILES[config.profile].on_bytes
        return replace(model, content=fold_normalisation(model.content)) if folds else model
    content = annotations.read_bytes()
    return Artifact(content, sha256_hex(content), str(annotations))


def _with_demo(config: RunConfig) -> tuple[RunConfig, str]:
    """Returns the demo in place of data and model if none of them is named, and its note."""
    data, model = config.data, config.model
    if data.images or data.annotations or model.path:
        return config, ""
    # By name, so that the system does not depend on its demo.
    module = importlib.import_module("distributed_pose.demo.default")
    demo = module.prepare_demo(max(data.limit or 0, module.DEFAULT_NUM_IMAGES))
    paths = {"images": demo.images, "annotations": demo.annotations}
    update = {
        "data": data.model_copy(update=paths),
        "model": model.model_copy(update={"path": demo.model}),
    }
    return config.model_copy(update=update), demo.note


def open_engine(config: RunConfig) -> Engine:
    """Returns the engine of a configuration, not yet entered."""
    if config.engine == "inline":
        return InlineEngine(config)
    # Ray takes a second to import, and the inline engine works without it.
    from distributed_pose.cluster.ray_engine import RayEngine

    return RayEngine(config)


def planned_devices(config: RunConfig) -> tuple[tuple[DevicePlan, ...], str]:
    """Returns the devices that a run would use, and its backend."""
    backend = resolve_backend(config.backend, config.precision)
    with open_engine(config) as engine:
        return engine.devices(), backend


def _required(path: Path | None, key: str) -> Path:
    if path is None:
        raise ConfigError(f"{key} is not set", f"give --set {key}=PATH or a --config that has it")
    return path


def _run(
    engine: Engine,
    config: RunConfig,
    inputs: RunInputs,
    ledger: Ledger,
    on_progress: Progress | None,
) -> None:
    total, done = len(inputs.index.images), 0
    if on_progress:
        on_progress(total, done)
    shards = read_shards(inputs.index.images, inputs.folder, config.batch_size)
    for result in engine.run(shards):
        done += ledger.accept(result)
        if on_progress:
            on_progress(total, done)


def _report(
    config: RunConfig,
    inputs: RunInputs,
    ledger: Ledger,
    detections: Sequence[Mapping[str, Any]],
    devices: Sequence[DeviceReady],
    measured: _Measured,
) -> RunReport:
    failures = tuple(ledger.failures)
    durations = ledger.durations
    ap = None
    if not failures:
        start = perf_counter_ns()
        image_ids = [image.image_id for image in inputs.index.images]
        ap = coco_ap(inputs.index.ground_truth, detections, image_ids)
        durations["score"].append(perf_counter_ns() - start)
    return RunReport(
        note=inputs.note,
        complete=not failures,
        partial_by_choice=inputs.index.is_partial,
        num_images=len(inputs.index.images),
        num_detections=len(detections),
        failures=failures,
        ap=ap,
        profile=config.profile,
        precision=_joined(device.precision for device in devices),
        backend=inputs.backend,
        engine=config.engine,
        gather=config.gather,
        data=DataReport(str(inputs.folder.absolute()), str(inputs.annotations.absolute())),
        model=ModelReport(inputs.model.source, inputs.model.sha256),
        throughput=_throughput(ledger, devices, measured.wall_ns),
        stages=stage_figures(durations),
        warmup_s=measured.warmup_ns / _NS,
        memory=measured.memory,
        devices=tuple(_device(ledger, device, measured.wall_ns) for device in devices),
        versions=library_versions(),
    )


def _joined(values: Iterable[str]) -> str:
    return "+".join(sorted(set(values)))


def _throughput(ledger: Ledger, devices: Sequence[DeviceReady], wall_ns: int) -> Throughput:
    names = [device.plan.name for device in devices]
    compute = {
        name: images_per_s(ledger.num_images(name), ledger.inference_ns(name)) for name in names
    }
    busy_ns = sum(ledger.inference_ns(name) for name in names)
    return Throughput(
        images_per_s(sum(ledger.num_images(name) for name in names), wall_ns),
        {**compute, "total": sum(compute.values())},
        wall_ns / _NS,
        1 - busy_ns / (wall_ns * len(names)),
    )


def _device(ledger: Ledger, device: DeviceReady, wall_ns: int) -> DeviceReport:
    name = device.plan.name
    images, inference_ns = ledger.num_images(name), ledger.inference_ns(name)
    return DeviceReport(
        name,
        device.plan.kind,
        int(name.rpartition(":")[2]),
        device.plan.node,
        device.description,
        device.plan.threads,
        device.batch_size,
        images,
        inference_ns / wall_ns,
        images_per_s(images, inference_ns),
    )
