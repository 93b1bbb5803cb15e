"""Measures what a plan needs to know of a host, by runs with simulated devices."""

from collections.abc import Sequence
from math import ceil

from distributed_pose.bench.capacity import DeviceGroup, HostCosts, total_rate
from distributed_pose.bench.scale import BUSY, busy_share, cpu_us
from distributed_pose.config.schema import RunConfig
from distributed_pose.engine.steps import Progress
from distributed_pose.errors import ConfigError
from distributed_pose.evaluation import evaluate, open_engine
from distributed_pose.records.facts import DataFlow
from distributed_pose.records.images import InputSize
from distributed_pose.records.stages import DECODE_STAGES
from distributed_pose.report.run_report import RunReport
from distributed_pose.run.inputs import read_inputs
from distributed_pose.vision.profiles import PROFILES

# The device of the last run has at most this share of the host's ceiling as its rate, since hosts
# are seldom idle.
_LIGHT_LOAD = 0.5

# Each run takes about this many seconds, since starting and ending take tenths of one.
_CALIBRATION_S = 12.0

# The first run only shows how many devices the host can feed.
_PROBE_S = 3.0
_PROBE_RATE = 300.0

# This many times as many devices as the host can feed keep all of its cores at work.
_SATURATION = 1.5
_MAX_WORKERS, _MAX_WORKERS_PER_CORE = 16, 4

# Height and width in pixels.
_TYPICAL_IMAGE = (480, 640)


def measure_host_costs(
    config: RunConfig, groups: Sequence[DeviceGroup], flow: DataFlow, on_progress: Progress
) -> HostCosts:
    """Returns the costs per image of this host for devices of the mean rate of a plan.

    Args:
        config: configuration that gives data, profile, batch size and feeders.
        groups: devices of the plan.
        flow: data flow of the plan.
        on_progress: callback that is called after each run.
    """
    steps = 3
    data = config.data.model_copy(update={"read": flow.read})
    fixed = config.model_copy(update={"gather": flow.gather, "data": data})
    rate = total_rate(groups) / sum(group.count for group in groups)
    # An open engine keeps Ray alive. Otherwise each run would start it.
    with open_engine(fixed):
        probe = _run(fixed, rate, 2, _PROBE_S * min(2 * rate, _PROBE_RATE))
        on_progress(steps, 1)
        busy = max(0.01, busy_share(probe))
        workers = _num_workers(busy, probe.host_use.cores)
        expected = min(workers * rate, probe.throughput.wall_images_per_s / busy)
        full = _run(fixed, rate, workers, _CALIBRATION_S * expected)
        on_progress(steps, 2)
        # Slow devices leave cores idle, and other work takes some; a plan is for hosts without it.
        ceiling = full.throughput.wall_images_per_s * max(1.0, BUSY / max(0.01, busy_share(full)))
        light = min(rate, _LIGHT_LOAD * ceiling)
        easy = _run(fixed, light, 1, _CALIBRATION_S * light)
        on_progress(steps, 3)
    return _costs(config, full, easy, ceiling, rate)


def measure_rate(
    config: RunConfig, groups: Sequence[DeviceGroup], expected: float
) -> tuple[float, float]:
    """Returns what a run with simulated devices on this machine reaches.

    The first figure is images per second by wall clock, and the second one is the processor time of
    the run as a share of that of all cores.

    Args:
        config: configuration of the run.
        groups: devices to simulate, one group of equal devices.
        expected: expected rate, which decides the number of images.

    Raises:
        ConfigError: if there is not exactly one group, since all CPU workers are alike.
    """
    if len(groups) != 1:
        raise ConfigError("--check: one kind of devices at a time can be simulated here")
    (group,) = groups
    with open_engine(config):
        report = _run(config, group.images_per_s, group.count, _CALIBRATION_S * expected)
    return report.throughput.wall_images_per_s, busy_share(report)


def _costs(
    config: RunConfig, full: RunReport, easy: RunReport, ceiling: float, rate: float
) -> HostCosts:
    compute = easy.throughput.compute_images_per_s["total"]
    return HostCosts(
        cores=full.host_use.cores,
        ceiling_images_per_s=ceiling,
        device_share=easy.throughput.wall_images_per_s / compute,
        cpu_us=cpu_us(full),
        object_store_bytes=full.host_use.object_store_bytes / full.host_use.images,
        gather=full.gather,
        read=full.read,
        batch_size=easy.devices[0].batch_size,
        read_ms=_median_ms(easy, "read"),
        prepare_ms=_median_ms(easy, "decode_jpeg", "preprocess"),
        group_ms=_median_ms(easy, *DECODE_STAGES),
        feeders=0 if config.feeders == "auto" else config.feeders,
        simulated_cores=config.simulated.host.cores or 0,
        device_images_per_s=rate,
        input=str(typical_input(config)),
    )


def typical_input(config: RunConfig) -> InputSize:
    """Returns the size of the network input for an image of the size that most of COCO have."""
    profile = PROFILES[config.profile].sized(config.input_size)
    return InputSize(*profile.input_shape(*_TYPICAL_IMAGE)[1:])


def _median_ms(report: RunReport, *stages: str) -> float:
    return sum(report.stages[stage].p50_ns for stage in stages) / 1e6


def _num_workers(busy: float, cores: int) -> int:
    """Returns the number of devices that saturates a host.

    Args:
        busy: share of the host's processor time that two devices use.
        cores: number of cores of the host.
    """
    most = min(_MAX_WORKERS, _MAX_WORKERS_PER_CORE * cores)
    return max(2, min(most, ceil(2 * _SATURATION / busy)))


def _run(config: RunConfig, rate: float, devices: int, images: float) -> RunReport:
    """Returns the report of a run of about as many images with simulated devices."""
    simulated = config.simulated.model_copy(update={"rate": rate})
    settings = config.model_copy(
        update={
            "backend": "simulated",
            "devices": (f"cpu:{devices}",),
            "simulated": simulated,
            "data": config.data.model_copy(update={"repeat": 1}),
        }
    )
    dataset = len(read_inputs(settings).index.images)
    repeat = max(1, round(images / dataset))
    data = config.data.model_copy(update={"repeat": repeat})
    return evaluate(settings.model_copy(update={"data": data}))
