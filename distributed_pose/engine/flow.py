"""Chooses how images and maps flow between processes, where the configuration leaves it open."""

from collections.abc import Sequence
from math import ceil
from socket import gethostname

from distributed_pose.config.schema import RunConfig
from distributed_pose.records.devices import DeviceReady, ImagesToRead
from distributed_pose.records.facts import DataFlow

# The driver reads and sends about a thousand images per second at most, and one at a time. Below a
# fifth of that it is not slower than workers that read, and only its node needs the images.
_DRIVER_READS = 200.0

# The maps of an image take 0.84 MB of the object store and about 0.5 ms of processors to transfer.
# Devices of this rate together lose nothing by it; faster ones are fed better without it.
_MAPS_PER_S = 500.0

# Seconds that a reducer takes for an image; crowds take longer than few people.
_REDUCE_S = 1.5e-3


def choose_flow(
    config: RunConfig, devices: Sequence[DeviceReady], images: ImagesToRead | None, cores: int
) -> DataFlow:
    """Returns the configured data flow, with the fastest choice wherever it is `auto`.

    The detections do not depend on it.

    Args:
        config: configuration of the run.
        devices: devices of the run, with the rates that their warm-up measured.
        images: images that the workers may read; None if shards contain the images.
        cores: number of CPUs of all nodes.
    """
    rate = sum(device.images_per_s for device in devices)
    can_read = _is_seen(devices, images) and all(device.reads_images for device in devices)
    return flow_at(config, rate, cores, can_read=can_read)


def flow_at(config: RunConfig, images_per_s: float, cores: int, *, can_read: bool) -> DataFlow:
    """Returns the configured data flow, with the fastest choice at a rate wherever it is `auto`.

    Args:
        config: configuration of the run.
        images_per_s: compute-only rate of all devices together.
        cores: number of CPUs of all nodes.
        can_read: whether all workers can read the images.
    """
    rate = images_per_s
    read = config.data.read
    if read == "auto":
        read = "worker" if can_read and rate > _DRIVER_READS else "driver"
    gather = config.gather
    if len(config.scales) > 1:
        # The maps of all scales of an image are grouped together, where they are.
        gather = "poses"
    if gather == "auto":
        gather = "maps" if rate <= _MAPS_PER_S else "poses"
    wanted = max(1, min(cores, ceil(rate * _REDUCE_S)))
    reducers = wanted if config.reducers == "auto" else config.reducers
    return DataFlow(gather=gather, read=read, reducers=reducers if gather == "maps" else 0)


def _is_seen(devices: Sequence[DeviceReady], images: ImagesToRead | None) -> bool:
    """Returns whether the workers see the driver's images, and not other files of their nodes."""
    if images is None:
        return False
    return "://" in str(images.location) or {device.host for device in devices} == {gethostname()}
