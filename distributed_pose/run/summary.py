"""Makes the report of a run from its ledger."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import replays
from distributed_pose.data.coco import CocoIndex
from distributed_pose.metrics.coco_ap import coco_ap
from distributed_pose.metrics.throughput import images_per_s, stage_figures
from distributed_pose.records import DEVICE_STAGES, Damage, EngineFacts, Failure
from distributed_pose.report.run_report import (
    DataReport,
    DeviceReport,
    ModelReport,
    NamedImage,
    RunReport,
    Throughput,
    library_versions,
)
from distributed_pose.run.inputs import RunInputs
from distributed_pose.run.ledger import DeviceFigures, Ledger

_NS = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionFacts:
    """The facts of a session that the ledger does not have; the defaults if no image was pending.

    Attributes:
        warmup_ns: nanoseconds from the start of the session to the first dispatch.
        engine: measurements of the engine.
    """

    warmup_ns: int = 0
    engine: EngineFacts = field(default_factory=EngineFacts)


def summarise(
    config: RunConfig,
    inputs: RunInputs,
    ledger: Ledger,
    detections: Sequence[Mapping[str, Any]],
    facts: SessionFacts,
    *,
    is_stopped: bool = False,
) -> RunReport:
    """Returns the report of a run.

    The report has AP if the run was not stopped, the images have annotations, and no more images
    failed than the configuration allows.

    Args:
        config: configuration of the run.
        inputs: inputs of the run.
        ledger: results and failures of the images.
        detections: detections of the ledger in COCO results format, with the ledger's image ids.
        facts: facts of the last session.
        is_stopped: whether the run ended before its last image. If so, images without a result or
            recorded failure do not count as failures.
    """
    index = inputs.index
    failures = _named(index, ledger.recorded_failures if is_stopped else ledger.failures)
    durations = ledger.durations
    unscored = _unscored(len(failures), config, inputs)
    if is_stopped:
        unscored = f"the run ended with {ledger.num_settled} of {len(index.images)} images done"
    ap = None
    if not unscored:
        start = perf_counter_ns()
        image_ids = [image.image_id for image in index.images]
        ap = coco_ap(index.ground_truth, detections, image_ids)
        durations["score"].append(perf_counter_ns() - start)
    devices = ledger.devices
    computed = not replays(config)
    if not computed:
        for stage in DEVICE_STAGES:
            durations[stage].clear()
    return RunReport(
        note=inputs.note,
        complete=not failures and not is_stopped,
        partial_by_choice=index.is_partial,
        num_images=len(index.images),
        num_detections=len(detections),
        failures=failures,
        damaged=_named(index, ledger.damaged),
        failures_allowed=config.allow_failures,
        ap=ap,
        unscored=unscored,
        profile=config.profile,
        precision=_joined(figures.device.precision for figures in devices),
        backend=_joined(figures.device.backend for figures in devices),
        engine=config.engine,
        gather=config.gather,
        data=DataReport(
            images=str(inputs.images.location),
            annotations=str(inputs.annotations),
            repeat=config.data.repeat,
            category=index.category_id,
            notes=index.notes,
        ),
        model=ModelReport(
            path=inputs.model.path,
            sha256=inputs.model.sha256,
            refinement_stages=inputs.model.refinement_stages,
            unused=inputs.model.unused,
            notes=inputs.model.notes,
        ),
        throughput=_throughput(devices, ledger, computed=computed),
        stages=stage_figures(durations),
        sessions=ledger.num_sessions,
        warmup_s=facts.warmup_ns / _NS,
        compile_s=facts.engine.compile_s,
        memory=facts.engine.memory,
        faults=facts.engine.faults,
        host_use=facts.engine.host_use,
        devices=tuple(_device(figures, computed=computed) for figures in devices),
        versions=library_versions(),
    )


def _unscored(num_failures: int, config: RunConfig, inputs: RunInputs) -> str:
    """Returns the reason why a run has no AP; empty if it has one."""
    if num_failures > config.allow_failures:
        return f"{num_failures} of {len(inputs.index.images)} images failed"
    return "" if inputs.index.is_labelled else f"{inputs.annotations} has no annotations"


def _named(index: CocoIndex, images: Iterable[Failure | Damage]) -> tuple[NamedImage, ...]:
    return tuple(
        NamedImage(index.listed_id(image.image_id), image.file_name, image.reason)
        for image in images
    )


def _joined(values: Iterable[str]) -> str:
    return "+".join(sorted(set(values)))


def _throughput(devices: Sequence[DeviceFigures], ledger: Ledger, *, computed: bool) -> Throughput:
    wall_rate = images_per_s(sum(figures.images for figures in devices), ledger.wall_ns)
    if not computed:
        return Throughput(wall_rate, {}, ledger.wall_ns / _NS, None, ledger.straggler_share)
    compute: dict[str, float] = {}
    for figures in devices:
        rate = images_per_s(figures.images, figures.compute_ns)
        # A device that changed between sessions has several figures, of which the last one counts.
        compute[figures.device.plan.name] = rate
    busy_ns = sum(figures.compute_ns for figures in devices)
    device_ns = sum(figures.wall_ns for figures in devices)
    return Throughput(
        wall_rate,
        {**compute, "total": sum(compute.values())},
        ledger.wall_ns / _NS,
        1 - busy_ns / device_ns if device_ns else 0.0,
        ledger.straggler_share,
    )


def _device(figures: DeviceFigures, *, computed: bool) -> DeviceReport:
    device = figures.device
    busy_share = figures.compute_ns / figures.wall_ns if figures.wall_ns else 0.0
    return DeviceReport(
        device.plan.name,
        device.plan.kind,
        device.plan.number,
        device.plan.device_id,
        device.plan.node,
        device.description,
        device.backend,
        device.precision,
        device.plan.threads,
        device.batch_size,
        figures.images,
        busy_share if computed else None,
        images_per_s(figures.images, figures.compute_ns) if computed else None,
        device.host,
        dict(device.versions),
        device.passed_over,
    )
