"""What a number of devices needs of its hosts, and what they then run together.

The model has two parts: devices that each keep a share of their compute-only rate, and hosts that
can do so many images a second on a core. The slower part decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from distributed_pose.bench.scale import cpu_us
from distributed_pose.config.schema import RunConfig
from distributed_pose.devices.published import PUBLISHED
from distributed_pose.errors import ConfigError
from distributed_pose.evaluation import Progress, evaluate, open_engine
from distributed_pose.files.json_records import Figure, Positive
from distributed_pose.report.run_report import RunReport

# Of the host's ceiling: what one device is given to do, since hosts are seldom idle.
_EASY = 0.5

# A rate that no host can feed.
_ENDLESS = 1e5

# Seconds of each run, about: starting and ending take tenths of one.
_CALIBRATION_S = 12.0


@dataclass(frozen=True)
class HostCosts:
    """What an image costs a host, as measured on one.

    Attributes:
        cores: of the machine that it was measured on.
        ceiling_images_per_s: with devices that take no time, all cores at work.
        device_share: of its compute-only rate that a device keeps where the host is not busy.
        cpu_us: processor time an image by role, with all cores at work.
        object_store_bytes: of shards and maps an image.
        gather: `maps` or `poses`.
        read: `driver` or `worker`.
        batch_size: of the devices.
    """

    cores: Positive
    ceiling_images_per_s: Annotated[Figure, Field(gt=0)]
    device_share: Annotated[Figure, Field(gt=0)]
    cpu_us: dict[str, Figure]
    object_store_bytes: Figure
    gather: str
    read: str
    batch_size: Positive


@dataclass(frozen=True)
class DeviceGroup:
    """Devices alike.

    Attributes:
        name: of the kind of card.
        count: how many.
        images_per_s: compute only, of one.
    """

    name: str
    count: int
    images_per_s: float


@dataclass(frozen=True)
class Capacity:
    """What devices and hosts run together.

    Attributes:
        images_per_s: wall clock.
        hours: for all images.
        devices_images_per_s: what the devices could do.
        limits_images_per_s: by resource, what it allows.
        bound_by: the resource that decides.
        cores_needed: for the devices never to wait.
        object_store_bytes_per_s: at that rate.
    """

    images_per_s: float
    hours: float
    devices_images_per_s: float
    limits_images_per_s: dict[str, float]
    bound_by: str
    cores_needed: float
    object_store_bytes_per_s: float


def published_rate(name: str) -> float:
    """Returns the images/s of a published card at its best batch size, or the number that it is.

    Raises:
        ConfigError: if it is neither.
    """
    if name in PUBLISHED:
        return max(rate for _, rate in PUBLISHED[name].rates)
    try:
        rate = float(name)
    except ValueError:
        rate = 0.0
    if not 0 < rate < _ENDLESS:
        raise ConfigError(f"there is no device {name}", f"known: {', '.join(PUBLISHED)}")
    return rate


def measure_host_costs(config: RunConfig, on_progress: Progress) -> HostCosts:
    """Returns what an image costs this host, by runs with simulated devices.

    Args:
        config: of data, profile, batch size, `gather`, `data.read` and reducers.
        on_progress: called after each run.
    """
    steps = 3
    # Held on to, since Ray would else be started for each run.
    with open_engine(config):
        probe = _run(config, _ENDLESS, "cpu:2", repeat=4)
        on_progress(steps, 1)
        rate = probe.throughput.wall_images_per_s
        workers = f"cpu:{max(2, 2 * probe.host_use.cores)}"
        full = _run(config, _ENDLESS, workers, _repeat(probe, rate))
        on_progress(steps, 2)
        ceiling = full.throughput.wall_images_per_s
        easy = _run(config, _EASY * ceiling, "cpu:1", _repeat(probe, _EASY * ceiling))
        on_progress(steps, 3)
    compute = easy.throughput.compute_images_per_s["total"]
    return HostCosts(
        full.host_use.cores,
        ceiling,
        easy.throughput.wall_images_per_s / compute,
        cpu_us(full),
        full.host_use.object_store_bytes / full.host_use.images,
        config.gather,
        config.data.read,
        easy.devices[0].batch_size,
    )


def capacity(
    costs: HostCosts, groups: Sequence[DeviceGroup], images: float, *, hosts: int, cores: int
) -> Capacity:
    """Returns what devices run together on hosts.

    Args:
        costs: of an image.
        groups: devices.
        images: how many are to be run.
        hosts: over which the devices are spread evenly.
        cores: of each.
    """
    # The rates of the groups add up, since devices pull work.
    devices = costs.device_share * sum(group.count * group.images_per_s for group in groups)
    a_core = costs.ceiling_images_per_s / costs.cores
    limits = {
        "devices": devices,
        "host CPUs": a_core * hosts * cores,
        # One process, whose Python runs one thread at a time.
        "the driver's process": 1e6 / max(costs.cpu_us.get("driver", 0.0), 1e-3),
    }
    bound_by = min(limits, key=lambda name: limits[name])
    rate = limits[bound_by]
    return Capacity(
        rate,
        images / rate / 3600,
        devices,
        limits,
        bound_by,
        devices / a_core,
        rate * costs.object_store_bytes,
    )


def measured(config: RunConfig, groups: Sequence[DeviceGroup]) -> float:
    """Returns the wall-clock images/s of a run with such devices, simulated, on this machine.

    Raises:
        ConfigError: if there are devices of several kinds, since CPU workers are all alike.
    """
    if len(groups) != 1:
        raise ConfigError("--check: one kind of devices at a time can be simulated here")
    (group,) = groups
    workers = f"cpu:{group.count}"
    with open_engine(config):
        probe = _run(config, group.images_per_s, workers, repeat=2)
        rate = probe.throughput.wall_images_per_s
        report = _run(config, group.images_per_s, workers, _repeat(probe, rate))
    return report.throughput.wall_images_per_s


def _run(config: RunConfig, rate: float, devices: str, repeat: int) -> RunReport:
    simulated = config.simulated.model_copy(update={"rate": rate})
    data = config.data.model_copy(update={"repeat": repeat})
    update = {"backend": "simulated", "devices": (devices,), "simulated": simulated, "data": data}
    return evaluate(config.model_copy(update=update))


def _repeat(probe: RunReport, rate: float) -> int:
    """Returns how often the dataset is gone through in a run that is long enough to measure."""
    dataset = probe.num_images / probe.data.repeat
    return max(1, round(rate * _CALIBRATION_S / dataset))
