"""Estimates the throughput of a number of devices on given hosts.

Each resource of a run allows a rate: devices, the feeders of their workers, the cores of the hosts,
the driver, and reducers. The lowest rate decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from distributed_pose.data.overlap import calls_per_s
from distributed_pose.devices.published import PUBLISHED, PUBLISHED_INPUT, relative_time
from distributed_pose.engine.feeding import plan_feeding
from distributed_pose.errors import ConfigError
from distributed_pose.files.json_records import Count, Figure, Positive
from distributed_pose.metrics.scoring import FAST_FROM
from distributed_pose.records.facts import DataFlow
from distributed_pose.records.images import InputSize

# No host can feed a device at this rate, in images per second.
_MAX_RATE = 1e5

# Devices with two batches in flight copy one while they execute the other.
_SLOTS = 2

# Seconds per image that the libraries take to score, from docs/explanation/figures.md: hotcoco with
# its check, for many images, and pycocotools for few.
_FAST_SCORE_S, _REFERENCE_SCORE_S = 29e-6, 580e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class HostCosts:
    """The costs per image of a host, as measured on one machine.

    A time of 0 is unknown, and limits nothing.

    Attributes:
        cores: number of cores of the measured machine.
        ceiling_images_per_s: images per second with all cores at work.
        device_share: share of its compute-only rate that a device keeps while the host is not
            busy.
        cpu_us: processor time per image in microseconds, by role, with all cores at work.
        object_store_bytes: bytes of shards and maps per image in the object store.
        gather: result of the workers, `maps` or `poses`.
        read: process that reads the images, `driver` or `worker`.
        batch_size: batch size of the devices.
        read_ms: elapsed milliseconds to read an image while the host is not busy.
        prepare_ms: elapsed milliseconds to decode and preprocess an image, likewise.
        group_ms: elapsed milliseconds to group the maps of an image, likewise.
        feeders: number of feeders per device that the configuration fixes; 0 for `auto`.
        simulated_cores: number of simulated cores per host; 0 where the stages are real.
        device_images_per_s: compute-only rate of each device in the measurement.
        input: size of the network inputs, `HEIGHTxWIDTH` in pixels; empty if unknown.
    """

    cores: Positive
    ceiling_images_per_s: Annotated[Figure, Field(gt=0)]
    device_share: Annotated[Figure, Field(gt=0)]
    cpu_us: dict[str, Figure]
    object_store_bytes: Figure
    gather: str
    read: str
    batch_size: Positive
    read_ms: Figure = 0.0
    prepare_ms: Figure = 0.0
    group_ms: Figure = 0.0
    feeders: Count = 0
    simulated_cores: Count = 0
    device_images_per_s: Figure = 0.0
    input: str = ""


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
        scoring_s: seconds to score the detections after the last image.
        devices_images_per_s: images per second that the devices allow.
        limits_images_per_s: images per second that each resource allows, by name of the resource.
        bound_by: name of the resource with the lowest limit.
        cores_needed: number of cores with which the devices never wait for the host.
        object_store_bytes_per_s: bytes per second through the object store at `images_per_s`.
        flow: how images and maps flow between the processes.
    """

    images_per_s: float
    hours: float
    scoring_s: float
    devices_images_per_s: float
    limits_images_per_s: dict[str, float]
    bound_by: str
    cores_needed: float
    object_store_bytes_per_s: float
    flow: DataFlow


def published_rate(name: str, size: InputSize = PUBLISHED_INPUT) -> float:
    """Returns the images/s of a published card at its best batch size, or a rate given as text.

    The published rate is scaled by the number of input pixels, which is an estimate.

    Args:
        name: name of a published card, or a number of images per second, which is not scaled.
        size: size of the network inputs.

    Raises:
        ConfigError: if the name is neither a published card nor a valid rate.
    """
    if name in PUBLISHED:
        return max(rate for _, rate in PUBLISHED[name].rates) / relative_time(size)
    try:
        rate = float(name)
    except ValueError:
        rate = 0.0
    if not 0 < rate < _MAX_RATE:
        raise ConfigError(f"there is no device {name}", f"known: {', '.join(PUBLISHED)}")
    return rate


def rate_note(groups: Sequence[DeviceGroup], size: InputSize) -> str:
    """Returns a sentence about rates of a plan that are estimated; empty if none are."""
    names = [group.name for group in groups if group.name in PUBLISHED]
    if size == PUBLISHED_INPUT or not names:
        return ""
    return (
        f"{', '.join(names)}: rates published for inputs of {PUBLISHED_INPUT} are divided by "
        f"{relative_time(size):.3g}, the ratio of the pixels of {size}, which is an estimate."
    )


def total_rate(groups: Sequence[DeviceGroup]) -> float:
    """Returns the compute-only images per second of all devices together."""
    return sum(group.count * group.images_per_s for group in groups)


def capacity(
    costs: HostCosts,
    groups: Sequence[DeviceGroup],
    images: float,
    flow: DataFlow,
    *,
    hosts: int,
    cores: int,
) -> Capacity:
    """Returns the estimated throughput of devices on hosts.

    Args:
        costs: measured costs per image.
        groups: groups of equal devices.
        images: number of images of the run.
        flow: data flow of the run, in which the costs were measured.
        hosts: number of hosts; the devices are spread over them evenly.
        cores: number of cores of each host.
    """
    per_core = costs.ceiling_images_per_s / costs.cores
    limits = {
        # The rates of the groups add up, since devices pull work.
        "devices": costs.device_share * total_rate(groups),
        "host cores": per_core * hosts * cores,
        **_host_limits(costs, groups, hosts=hosts, cores=cores),
        # The driver is one process, whose Python runs one thread at a time.
        "driver": _rate(costs.cpu_us.get("driver", 0.0)),
    }
    if costs.gather == "maps":
        # A reducer is a process that groups one batch at a time.
        limits["reducers"] = max(1, flow.reducers) * _rate(costs.cpu_us.get("reducers", 0.0))
    bound_by = min(limits, key=lambda name: limits[name])
    rate = limits[bound_by]
    return Capacity(
        images_per_s=rate,
        hours=images / rate / 3600,
        scoring_s=images * (_FAST_SCORE_S if images >= FAST_FROM else _REFERENCE_SCORE_S),
        devices_images_per_s=limits["devices"],
        limits_images_per_s=limits,
        bound_by=bound_by,
        cores_needed=limits["devices"] / per_core,
        object_store_bytes_per_s=rate * costs.object_store_bytes,
        flow=flow,
    )


def _host_limits(
    costs: HostCosts, groups: Sequence[DeviceGroup], *, hosts: int, cores: int
) -> dict[str, float]:
    """Returns the rates that reading, preparing and simulated cores allow."""
    limits = {}
    is_read_here = costs.read == "worker"
    feeder_s = (costs.prepare_ms + costs.read_ms * is_read_here) / 1e3
    if feeder_s:
        processes = costs.simulated_cores or cores
        limits["feeders"] = sum(
            group.count * _fed_rate(costs, group.images_per_s, feeder_s, processes)
            for group in groups
        )
    if costs.read_ms and not is_read_here:
        limits["reading by the driver"] = calls_per_s(costs.read_ms / 1e3)
    if costs.simulated_cores:
        used_ms = max(1e-3, costs.prepare_ms + costs.group_ms)
        limits["simulated cores"] = hosts * costs.simulated_cores * 1e3 / used_ms
    return limits


def _fed_rate(costs: HostCosts, images_per_s: float, feeder_s: float, processes: int) -> float:
    """Returns the images/s that the feeders of one device prepare where there are enough cores."""
    feeding = plan_feeding(images_per_s, feeder_s, _SLOTS, costs.feeders, processes)
    return feeding.max_images_per_s(feeder_s)


def _rate(microseconds: float) -> float:
    return 1e6 / max(microseconds, 1e-3)
