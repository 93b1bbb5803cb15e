"""How throughput grows with the number of devices, and what stops it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

from distributed_pose.backends.selection import check_computes
from distributed_pose.cluster.planned import planned_devices
from distributed_pose.config.schema import RunConfig
from distributed_pose.devices.kinds import KINDS
from distributed_pose.errors import ConfigError, ExecutionError
from distributed_pose.evaluation import Progress, evaluate, open_engine
from distributed_pose.report.run_report import RunReport

# What a count of devices is called to scale with.
GOOD_EFFICIENCY = 0.95

# A host is called saturated from here on: the rest is lost between its processes.
_BUSY = 0.85

_ROLES = {**dict.fromkeys(KINDS, "workers"), "reducer": "reducers"}


@dataclass(frozen=True)
class ScalePoint:
    """One count of devices; figures are medians of its runs.

    Attributes:
        devices: how many.
        images: of each run.
        runs_images_per_s: wall clock, of each run.
        wall_images_per_s: wall clock.
        compute_images_per_s: compute only, sum of the devices.
        speed_up: over the least count.
        efficiency: speed-up over the ratio of the counts.
        straggler_share: see `Throughput`.
        host_busy_share: processor time of all processes over that of the host.
        cpu_us: processor time an image by role: driver, workers, reducers, ray.
        stage_us: elapsed time an image by stage, as measured in the processes.
        object_store_bytes: of shards and maps an image.
        ap: of the run, by name.
        bound_by: what limits it; `devices` where it scales.
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


@dataclass(frozen=True)
class ScaleReport:
    """A scaling experiment.

    Attributes:
        scaling: `strong`, the same images for any count, or `weak`, the same images a device.
        backend: that ran the model.
        description: the devices' own name.
        gather: `maps` or `poses`.
        read: `driver` or `worker`.
        batch_size: of the devices.
        cores: processors of the host or cluster.
        points: ascending by count.
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
    """Returns wall-clock throughput by the number of devices.

    Runs of all counts alternate, so that a machine that slows down slows all of them.

    Args:
        config: of the run; its first kind of devices is what there is more and more of.
        counts: of devices.
        repeat: runs of each count.
        on_progress: called after each run.
        weak: whether the dataset grows with the count: it is repeated once a device.

    Raises:
        ConfigError: if there are fewer devices than the largest count, or no model to run.
        ExecutionError: if images have no result, or AP differs between runs of the same images.
    """
    check_computes(config)
    chosen = sorted(set(counts))
    settings = {count: _with_devices(config, count, weak=weak) for count in chosen}
    reports: dict[int, list[RunReport]] = {count: [] for count in chosen}
    # Held on to, since Ray would else be started for each run.
    with open_engine(config):
        for turn in range(repeat):
            for done, count in enumerate(chosen):
                reports[count].append(_checked(evaluate(settings[count])))
                on_progress(repeat * len(chosen), turn * len(chosen) + done + 1)
    _check_ap(reports, weak=weak)
    points = [_point(count, reports[count], reports[chosen[0]]) for count in chosen]
    first = reports[chosen[0]][0]
    return ScaleReport(
        "weak" if weak else "strong",
        first.backend,
        first.devices[0].description,
        first.gather,
        config.data.read,
        first.devices[0].batch_size,
        first.host_use.cores,
        tuple(points),
    )


def cpu_us(report: RunReport) -> dict[str, float]:
    """Returns the processor time an image by role: driver, workers, reducers, ray."""
    found = dict.fromkeys(("driver", "workers", "reducers", "ray"), 0.0)
    for name, used_s in report.host_use.cpu_s.items():
        role = _ROLES.get(name.partition(":")[0], name)
        found[role] += 1e6 * used_s / max(1, report.host_use.images)
    return found


def _with_devices(config: RunConfig, count: int, *, weak: bool) -> RunConfig:
    kind = planned_devices(config)[0].kind
    if kind == "cpu":
        devices: tuple[str, ...] = (f"cpu:{count}",)
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
    # Of the run in the middle, whose figures go together.
    run = sorted(runs, key=lambda one: one.throughput.wall_images_per_s)[len(runs) // 2]
    used, images = run.host_use, max(1, run.host_use.images)
    busy = sum(used.cpu_s.values()) / (run.throughput.wall_s * max(1, used.cores))
    return ScalePoint(
        count,
        run.num_images,
        rates,
        median(rates),
        run.throughput.compute_images_per_s["total"],
        speed_up,
        efficiency,
        run.throughput.straggler_share,
        busy,
        cpu_us(run),
        {name: stage.total_ns / 1e3 / images for name, stage in run.stages.items()},
        used.object_store_bytes / images,
        dict(run.ap or {}),
        _bound_by(run, efficiency, busy),
    )


def _bound_by(run: RunReport, efficiency: float, busy: float) -> str:
    if efficiency >= GOOD_EFFICIENCY:
        return "devices"
    if busy >= _BUSY:
        return "host CPUs"
    shares = {
        name.partition(":")[0]: used_s / run.throughput.wall_s
        for name, used_s in run.host_use.cpu_s.items()
    }
    for role in ("driver", "reducer"):
        if shares.get(role, 0.0) >= _BUSY:
            return f"{role} process"
    lost = {
        "stragglers": run.throughput.straggler_share,
        "waits in the host": 1 - run.throughput.straggler_share - _busiest(run),
    }
    return max(lost, key=lambda name: lost[name])


def _busiest(run: RunReport) -> float:
    return max(device.busy_share or 0.0 for device in run.devices)
