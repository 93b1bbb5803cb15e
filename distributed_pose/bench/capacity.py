"""Estimates the throughput of a number of devices on given hosts.

The model has two parts: devices that each keep a share of their compute-only rate, and hosts that
process a fixed number of images per second and core. The slower part decides.
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

# The device of the third run has this share of the host's ceiling as its rate, since hosts are
# seldom idle.
_EASY = 0.5

# No host can feed a device at this rate, in images per second.
_ENDLESS = 1e5

# Each run takes about this many seconds, since starting and ending take tenths of one.
_CALIBRATION_S = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class HostCosts:
    """The costs per image of a host, as measured on one machine.

    Attributes:
        cores: number of cores of the measured machine.
        ceiling_images_per_s: images per second with devices that take no time and all cores at
            work.
        device_share: share of its compute-only rate that a device keeps while the host is not
            busy.
        cpu_us: processor time per image in microseconds, by role, with all cores at work.
        object_store_bytes: bytes of shards and maps per image in the object store.
        gather: result of the workers, `maps` or `poses`.
        read: process that reads the images, `driver` or `worker`.
        batch_size: batch size of the devices.
    """

    cores: Positive
    ceiling_images_per_s: Annotated[Figure, Field(gt=0)]
    device_share: Annotated[Figure, Field(gt=0)]
    cpu_us: dict[str, Figure]
    object_store_bytes: Figure
    gather: str
    read: str
    batch_size: Positive


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceGroup:
    """A number of equal devices.

    Attributes:
        name: name of the card.
        count: number of devices.
        images_per_s: compute-only images per second of one device.
    """

    name: str
    count: int
    images_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """The estimated throughput of devices and hosts together.

    Attributes:
        images_per_s: images per second by wall clock.
        hours: time for all images.
        devices_images_per_s: images per second that the devices allow.
        limits_images_per_s: images per second that each resource allows, by name of the resource.
        bound_by: name of the resource with the lowest limit.
        cores_needed: number of cores with which the devices never wait for the host.
        object_store_bytes_per_s: bytes per second through the object store at `images_per_s`.
    """

    images_per_s: float
    hours: float
    devices_images_per_s: float
    limits_images_per_s: dict[str, float]
    bound_by: str
    cores_needed: float
    object_store_bytes_per_s: float


def published_rate(name: str) -> float:
    """Returns the images/s of a published card at its best batch size, or a rate given as text.

    Args:
        name: name of a published card, or a number of images per second.

    Raises:
        ConfigError: if the name is neither a published card nor a valid rate.
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
    """Returns the costs per image of this host, measured by runs with simulated devices.

    Args:
        config: configuration that gives data, profile, batch size, `gather`, `data.read` and
            reducers.
        on_progress: callback that is called after each run.
    """
    steps = 3
    # An open engine keeps Ray alive. Otherwise each run would start it.
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
        cores=full.host_use.cores,
        ceiling_images_per_s=ceiling,
        device_share=easy.throughput.wall_images_per_s / compute,
        cpu_us=cpu_us(full),
        object_store_bytes=full.host_use.object_store_bytes / full.host_use.images,
        gather=full.gather,
        read=full.read,
        batch_size=easy.devices[0].batch_size,
    )


def capacity(
    costs: HostCosts, groups: Sequence[DeviceGroup], images: float, *, hosts: int, cores: int
) -> Capacity:
    """Returns the estimated throughput of devices on hosts.

    Args:
        costs: measured costs per image.
        groups: groups of equal devices.
        images: number of images of the run.
        hosts: number of hosts; the devices are spread over them evenly.
        cores: number of cores of each host.
    """
    # The rates of the groups add up, since devices pull work.
    devices = costs.device_share * sum(group.count * group.images_per_s for group in groups)
    a_core = costs.ceiling_images_per_s / costs.cores
    limits = {
        "devices": devices,
        "host CPUs": a_core * hosts * cores,
        # The driver is one process, whose Python runs one thread at a time.
        "the driver's process": 1e6 / max(costs.cpu_us.get("driver", 0.0), 1e-3),
    }
    bound_by = min(limits, key=lambda name: limits[name])
    rate = limits[bound_by]
    return Capacity(
        images_per_s=rate,
        hours=images / rate / 3600,
        devices_images_per_s=devices,
        limits_images_per_s=limits,
        bound_by=bound_by,
        cores_needed=devices / a_core,
        object_store_bytes_per_s=rate * costs.object_store_bytes,
    )


def measured(config: RunConfig, groups: Sequence[DeviceGroup]) -> float:
    """Returns the wall-clock images/s of a run with simulated devices on this machine.

    Args:
        config: configuration of the run.
        groups: devices to simulate, one group of equal devices.

    Raises:
        ConfigError: if there is not exactly one group, since all CPU workers are alike.
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
    """Returns the number of repetitions of the dataset in a run that is long enough to measure."""
    dataset = probe.num_images / probe.data.repeat
    return max(1, round(rate * _CALIBRATION_S / dataset))
