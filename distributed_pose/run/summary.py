"""Makes the report of a run from its ledger."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from distributed_pose.config.schema import RunConfig
from distributed_pose.data.coco import CocoIndex
from distributed_pose.data.detections import Detections
from distributed_pose.metrics.scoring import Score, score
from distributed_pose.metrics.throughput import StageFigures, images_per_s, stage_figures
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.records.facts import EngineFacts, HostLoad, WorkerReadings
from distributed_pose.records.images import Damage, Failure
from distributed_pose.records.stages import DEVICE_STAGES
from distributed_pose.report.report_format import FORMAT
from distributed_pose.report.run_report import (
    DataReport,
    DeviceReport,
    ModelReport,
    NamedImage,
    RunReport,
    Throughput,
    library_versions,
)
from distributed_pose.run.audit import audit, hosts_of
from distributed_pose.run.energy import EnergyUse, energy_by_worker, total
from distributed_pose.run.inputs import RunInputs
from distributed_pose.run.ledger import DeviceFigures, Ledger

_NS = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionFacts:
    """The facts of a session that the ledger does not have; the defaults if no image was pending.

    Attributes:
        warmup_ns: nanoseconds from the start of the session to the first dispatch.
        engine: measurements of the engine.
        before: state of this machine before the session; None if there was no session.
        after: state of this machine after the session; None if there was no session.
    """

    warmup_ns: int = 0
    engine: EngineFacts = field(default_factory=EngineFacts)
    before: HostLoad | None = None
    after: HostLoad | None = None


def summarise(
    config: RunConfig,
    inputs: RunInputs,
    ledger: Ledger,
    detections: Detections,
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
        is_stopped: whether the run ended early. Images without a result or recorded failure then do
            not count as failures.
    """
    index = inputs.index
    failures = ledger.recorded_failures if is_stopped else ledger.failures
    unscored = _unscored(len(failures), config.allow_failures, inputs)
    if is_stopped:
        unscored = f"the run ended with {ledger.num_settled} of {len(index.images)} images done"
    outcome = _Outcome(
        is_complete=not failures and not is_stopped,
        num_detections=len(detections),
        failures=_named(index, failures),
        unscored=unscored,
        score=None if unscored else _score(index, detections),
    )
    return _report(config, inputs, ledger, facts, outcome)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """How a run ended.

    Attributes:
        is_complete: whether every image has a result.
        num_detections: number of people that were found.
        failures: images without a result.
        unscored: reason why the run has no score; empty if it has one.
        score: score of the detections; None if they are not scored.
    """

    is_complete: bool
    num_detections: int
    failures: tuple[NamedImage, ...]
    unscored: str
    score: Score | None


def _report(
    config: RunConfig, inputs: RunInputs, ledger: Ledger, facts: SessionFacts, outcome: _Outcome
) -> RunReport:
    index, devices, flow = inputs.index, ledger.devices, facts.engine.flow
    computed = inputs.model.format != "recording"
    readings = facts.engine.readings
    present = [figures.device for figures in devices if figures.device.plan.name in readings]
    energy = energy_by_worker(present, readings)
    hosts = hosts_of(present, readings, facts.before, facts.after)
    return RunReport(
        note=inputs.note,
        complete=outcome.is_complete,
        partial_by_choice=index.is_partial,
        num_images=len(index.images),
        num_detections=outcome.num_detections,
        failures=outcome.failures,
        damaged=_named(index, ledger.damaged),
        failures_allowed=config.allow_failures,
        ap=outcome.score.figures if outcome.score else None,
        unscored=outcome.unscored,
        profile=config.profile,
        input=str(inputs.selection.input_size),
        keypoints=inputs.selection.keypoints,
        scales=inputs.selection.scales,
        precision=_joined(figures.device.precision for figures in devices),
        backend=_joined(figures.device.backend for figures in devices),
        engine=config.engine,
        gather=flow.gather if flow else config.gather,
        read=flow.read if flow else config.data.read,
        reducers=flow.reducers if flow else 0,
        data=_data(inputs, config.data.repeat),
        model=_model(inputs.model),
        throughput=_throughput(devices, ledger, computed=computed),
        stages=_stages(ledger, outcome.score, computed=computed),
        sessions=ledger.num_sessions,
        warmup_s=facts.warmup_ns / _NS,
        compile_s=facts.engine.compile_s,
        memory=facts.engine.memory,
        faults=facts.engine.faults,
        host_use=facts.engine.host_use,
        devices=tuple(
            _metered(_device(figures, computed=computed), readings, energy) for figures in devices
        ),
        versions=library_versions(),
        scorer=outcome.score.scorer if outcome.score else "",
        report_format=FORMAT,
        audit=audit(config, inputs, ledger, hosts, total(present, energy)),
    )


def _data(inputs: RunInputs, repeat: int) -> DataReport:
    return DataReport(
        images=str(inputs.images.location),
        annotations=str(inputs.annotations),
        repeat=repeat,
        category=inputs.index.category_id,
        notes=inputs.index.notes,
    )


def _model(model: ModelSource) -> ModelReport:
    return ModelReport(
        path=model.path,
        sha256=model.sha256,
        refinement_stages=model.refinement_stages,
        unused=model.unused,
        notes=model.notes,
    )


def _score(index: CocoIndex, detections: Detections) -> Score:
    image_ids = [image.image_id for image in index.images]
    return score(index.people, detections, image_ids, sigmas=index.keypoints.sigmas)


def _stages(ledger: Ledger, score: Score | None, *, computed: bool) -> dict[str, StageFigures]:
    durations = ledger.durations
    if score:
        durations["score"].append(score.duration_ns)
    if not computed:
        for stage in DEVICE_STAGES:
            del durations[stage][:]
    return stage_figures(durations)


def _unscored(num_failures: int, num_allowed: int, inputs: RunInputs) -> str:
    """Returns the reason why a run has no AP; empty if it has one."""
    if num_failures > num_allowed:
        return f"{num_failures} of {len(inputs.index.images)} images failed"
    return "" if inputs.index.is_labelled else f"{inputs.annotations} has no annotations"


def _named(index: CocoIndex, images: Iterable[Failure | Damage]) -> tuple[NamedImage, ...]:
    return tuple(
        NamedImage(
            image_id=index.listed_id(image.image_id), file_name=image.file_name, reason=image.reason
        )
        for image in images
    )


def _joined(values: Iterable[str]) -> str:
    return "+".join(sorted(set(values)))


def _throughput(devices: Sequence[DeviceFigures], ledger: Ledger, *, computed: bool) -> Throughput:
    images = sum(figures.images for figures in devices)
    return Throughput(
        wall_images_per_s=images_per_s(images, ledger.wall_ns),
        compute_images_per_s=_compute_rates(devices) if computed else {},
        wall_s=ledger.wall_ns / _NS,
        outside_compute_share=_outside_compute_share(devices) if computed else None,
        straggler_share=ledger.straggler_share,
    )


def _compute_rates(devices: Sequence[DeviceFigures]) -> dict[str, float]:
    """Returns the compute-only images per second by device name, and in `total`."""
    # A device that changed between sessions has several figures, in no order of time.
    images, compute_ns = Counter[str](), Counter[str]()
    for figures in devices:
        images[figures.device.plan.name] += figures.images
        compute_ns[figures.device.plan.name] += figures.compute_ns
    rates = {name: images_per_s(images[name], compute_ns[name]) for name in images}
    return {**rates, "total": sum(rates.values())}


def _outside_compute_share(devices: Sequence[DeviceFigures]) -> float:
    busy_ns = sum(figures.compute_ns for figures in devices)
    device_ns = sum(figures.wall_ns for figures in devices)
    return 1 - busy_ns / device_ns if device_ns else 0.0


def _device(figures: DeviceFigures, *, computed: bool) -> DeviceReport:
    device = figures.device
    busy_share = figures.compute_ns / figures.wall_ns if figures.wall_ns else 0.0
    return DeviceReport(
        name=device.plan.name,
        kind=device.plan.kind,
        id=device.plan.number,
        physical_id=device.plan.device_id,
        node=device.plan.node,
        description=device.description,
        backend=device.backend,
        precision=device.precision,
        threads=device.plan.threads,
        batch_size=device.batch_size,
        images=figures.images,
        busy_share=busy_share if computed else None,
        compute_images_per_s=images_per_s(figures.images, figures.compute_ns) if computed else None,
        host=device.host,
        versions=dict(device.versions),
        passed_over=device.passed_over,
        feeders=device.feeders,
        feeder_processes=device.feeder_processes,
    )


def _metered(
    report: DeviceReport,
    readings: Mapping[str, WorkerReadings],
    energy: Mapping[str, EnergyUse],
) -> DeviceReport:
    """Returns the report of a device with its readings in the last session, if there are any."""
    if report.name not in readings:
        return report
    use = energy[report.name]
    return replace(
        report, readings=readings[report.name].device, images_per_joule=use.images_per_joule
    )
