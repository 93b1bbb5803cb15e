"""Measures how throughput grows with the number of devices, and names what limits it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

from distributed_pose.cluster.planned import planned_devices
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import check_computes, select
from distributed_pose.devices.kinds import CPU, KINDS
from distributed_pose.engine.steps import Progress
from distributed_pose.errors import ConfigError, ExecutionError
from distributed_pose.evaluation import evaluate, open_engine
from distributed_pose.report.run_report import RunReport

# A number of devices scales well from this efficiency on.
GOOD_EFFICIENCY = 0.95

# A host is saturated from this busy share on, since the rest is lost between its processes.
BUSY = 0.85

_ROLES = {**dict.fromkeys(KINDS, "workers"), "reducer": "reducers"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePoint:
    """The figures for one number of devices.

    `wall_images_per_s` and what follows from it are medians of the runs. All other figures are
    those of the run in the middle by its rate.

    Attributes:
        devices: number of devices.
        images: number of images of each run.
        runs_images_per_s: wall-clock images per second of each run.
        wall_images_per_s: median of the wall-clock images per second of the runs.
        compute_images_per_s: compute-only images per second, sum over the devices.
        speed_up: wall-clock rate divided by that of the smallest number of devices.
        efficiency: speed-up divided by the ratio of the numbers of devices.
        straggler_share: share of the devices' wall time that `Throughput.straggler_share` defines.
        host_busy_share: processor time of all processes as a share of the host's processor time.
        cpu_us: processor time per image in microseconds, by role: driver, workers, reducers, ray.
        stage_us: elapsed time per image in microseconds, by stage, as the processes measure it.
        object_store_bytes: bytes of shards and maps per image in the object store.
        ap: COCO figures of the run, by name.
        bound_by: limit of the throughput; `devices` if the throughput scales well.
    """

    devices: int
    images: int
    runs_images_per_s: tuple[float, ...]
    wall_images_per_s: float
    compute_images_per_s: float
    speed_up: float
    efficiency: float
    straggler_share: float
    host_busy_share: float
    cpu_us: Mapping[str, float]
    stage_us: Mapping[str, float]
    object_store_bytes: float
    ap: Mapping[str, float]
    bound_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleReport:
    """The figures of a scaling experiment.

    Attributes:
        scaling: `strong` for the same images with any number of devices, or `weak` for the same
            number of images per device.
        backend: backend that ran the model.
        description: name that the devices report.
        gather: result of the workers, `maps` or `poses`.
        read: process that reads the images, `driver` or `worker`.
        batch_size: batch size of the devices.
        cores: number of processors of the host or cluster.
        points: figures for each number of devices, in ascending order.
    """

    scaling: str
    backend: str
    description: str
    gather: str
    read: str
    batch_size: int
    cores: int
    points: tuple[ScalePoint, ...]


def run_scaling(
    config: RunConfig,
    counts: Sequence[int],
    repeat: int,
    on_progress: Progress,
    *,
    weak: bool = False,
) -> ScaleReport:
    """Returns the throughput for each number of devices.

    Runs with different numbers of devices alternate, so that a machine that slows down affects all
    numbers equally.

    Args:
        config: configuration of the runs; the number of devices of its first kind is varied.
        counts: numbers of devices.
        repeat: number of runs for each number of devices.
        on_progress: callback that is called after each run.
        weak: whether the dataset grows with the number of devices, by one repetition per device.

    Raises:
        ConfigError: if there are fewer devices than the largest count, or no model to run.
        ExecutionError: if images have no result, or AP differs between runs of the same images.
    """
    check_computes(select(config))
    chosen = sorted(set(counts))
    settings = {count: _with_devices(config, count, weak=weak) for count in chosen}
    reports: dict[int, list[RunReport]] = {count: [] for count in chosen}
    # An open engine keeps Ray alive. Otherwise each run would start it.
    with open_engine(config):
        for turn in range(repeat):
            for done, count in enumerate(chosen):
                reports[count].append(_checked(evaluate(settings[count])))
                on_progress(repeat * len(chosen), turn * len(chosen) + done + 1)
    _check_ap(reports, weak=weak)
    points = [_point(count, reports[count], reports[chosen[0]]) for count in chosen]
    first = reports[chosen[0]][0]
    return ScaleReport(
        scaling="weak" if weak else "strong",
        backend=first.backend,
        description=first.devices[0].description,
        gather=first.gather,
        read=first.read,
        batch_size=first.devices[0].batch_size,
        cores=first.host_use.cores,
        points=tuple(points),
    )


def cpu_us(report: RunReport) -> dict[str, float]:
    """Returns the processor time per image in microseconds, by role.

    The roles are driver, workers, reducers and ray.
    """
    found = dict.fromkeys(("driver", "workers", "reducers", "ray"), 0.0)
    for name, used_s in report.host_use.cpu_s.items():
        role = _ROLES.get(name.partition(":")[0], name)
        found[role] += 1e6 * used_s / max(1, report.host_use.images)
    return found


def busy_share(report: RunReport) -> float:
    """Returns the processor time of all processes as a share of that of all cores."""
    used = report.host_use
    return sum(used.cpu_s.values()) / (report.throughput.wall_s * max(1, used.cores))


def _with_devices(config: RunConfig, count: int, *, weak: bool) -> RunConfig:
    kind = planned_devices(config)[0].kind
    if kind == CPU:
        devices: tuple[str, ...] = (f"{CPU}:{count}",)
    else:
        of_kind = config.model_copy(update={"devices": (f"{kind}:*",)})
        plans = planned_devices(of_kind)
        names = list(dict.fromkeys(f"{plan.kind}:{plan.number}" for plan in plans))
        if count > len(names):
            raise ConfigError(f"--devices {count}: there are {len(names)}, {', '.join(names)}")
        devices = tuple(names[:count])
    repeat = config.data.repeat * (count if weak else 1)
    data = config.data.model_copy(update={"repeat": repeat})
    return config.model_copy(update={"devices": devices, "data": data})


def _checked(report: RunReport) -> RunReport:
    if report.failures:
        failure = report.failures[0]
        raise ExecutionError(f"a run with failures has no figures: {failure.reason}")
    return report


def _check_ap(reports: Mapping[int, Sequence[RunReport]], *, weak: bool) -> None:
    of_counts = list(reports.values())
    groups = of_counts if weak else [list(chain.from_iterable(of_counts))]
    for runs in groups:
        found = [dict(run.ap or {}) for run in runs]
        if any(ap != found[0] for ap in found):
            values = sorted({ap.get("AP") for ap in found}, key=str)
            raise ExecutionError(f"AP differs between runs of the same images: {values}")


def _point(count: int, runs: Sequence[RunReport], base: Sequence[RunReport]) -> ScalePoint:
    rates = tuple(run.throughput.wall_images_per_s for run in runs)
    base_rate = median(run.throughput.wall_images_per_s for run in base)
    speed_up = median(rates) / base_rate
    efficiency = speed_up * len(base[0].devices) / count
    # The figures below belong together, so they are all those of the run in the middle by its rate.
    run = sorted(runs, key=lambda one: one.throughput.wall_images_per_s)[len(runs) // 2]
    used, images = run.host_use, max(1, run.host_use.images)
    busy = busy_share(run)
    return ScalePoint(
        devices=count,
        images=run.num_images,
        runs_images_per_s=rates,
        wall_images_per_s=median(rates),
        compute_images_per_s=run.throughput.compute_images_per_s["total"],
        speed_up=speed_up,
        efficiency=efficiency,
        straggler_share=run.throughput.straggler_share,
        host_busy_share=busy,
        cpu_us=cpu_us(run),
        stage_us={name: stage.total_ns / 1e3 / images for name, stage in run.stages.items()},
        object_store_bytes=used.object_store_bytes / images,
        ap=dict(run.ap or {}),
        bound_by=_bound_by(run, efficiency, busy),
    )


def _bound_by(run: RunReport, efficiency: float, busy: float) -> str:
    if efficiency >= GOOD_EFFICIENCY:
        return "devices"
    if busy >= BUSY:
        return "host CPUs"
    shares = {
        name.partition(":")[0]: used_s / run.throughput.wall_s
        for name, used_s in run.host_use.cpu_s.items()
    }
    for role in ("driver", "reducer"):
        if shares.get(role, 0.0) >= BUSY:
            return f"{role} process"
    lost = {
        "stragglers": run.throughput.straggler_share,
        "waits in the host": 1 - run.throughput.straggler_share - _busiest(run),
    }
    return max(lost, key=lambda name: lost[name])


def _busiest(run: RunReport) -> float:
    return max(device.busy_share or 0.0 for device in run.devices)
