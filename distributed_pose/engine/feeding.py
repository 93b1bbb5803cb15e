"""Decides how many images a worker prepares at once, so that its device does not wait for them."""

from dataclasses import dataclass
from math import ceil

# Preparation times scatter, and the image of the warm-up is a typical one, so there are this many
# times as many feeders as typical images would need. Feeders that wait use no processor.
_MARGIN = 1.5

# A host with more feeders per device would not be faster; reads with latency need about this many.
_MAX_FEEDERS = 64

# Python runs one thread of a process at a time, which limits a process that prepares images to
# about this many images per second, however many threads it has.
_PROCESS_RATE = 1500.0

# Each batch is grouped by one thread, which takes about a millisecond per image.
_GROUP_S = 1e-3

# A worker has a thread for each batch that it has in preparation, on the device or in grouping.
MAX_BATCHES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Feeding:
    """How a worker feeds its device.

    Attributes:
        feeders: number of images that are prepared at once.
        processes: number of processes besides the worker that prepare images; 0 where the worker
            prepares them itself.
        batches: number of batches that are in preparation, on the device or in grouping at once.
    """

    feeders: int
    processes: int
    batches: int

    def max_images_per_s(self, prepare_s: float) -> float:
        """Returns the rate at which images can be prepared where the host has enough cores.

        Args:
            prepare_s: seconds to prepare an image, including the time to read it.
        """
        return min(self.feeders / prepare_s, max(1, self.processes) * _PROCESS_RATE)


def plan_feeding(
    images_per_s: float, prepare_s: float, slots: int, feeders: int = 0, max_processes: int = 0
) -> Feeding:
    """Returns how a device of a rate is fed.

    Workers of a host do not share out its cores: their feeders are as many as their rates ask for,
    so that the operating system gives each device cores in proportion to its rate.

    Args:
        images_per_s: compute-only rate of the device.
        prepare_s: seconds to prepare a typical image, including the time to read it.
        slots: number of batches that the device has in flight at once.
        feeders: number of feeders that the user has fixed; 0 for as many as the rate asks for.
        max_processes: number of other processes that can prepare images for the worker.
    """
    feeders = feeders or max(1, min(_MAX_FEEDERS, ceil(_MARGIN * images_per_s * prepare_s)))
    processes = 0
    if images_per_s > _PROCESS_RATE:
        processes = min(feeders, max_processes, ceil(images_per_s / _PROCESS_RATE))
    # While the last images of a batch are prepared, other feeders begin the next batch.
    prepared = min(feeders, 2 * max(1, processes))
    grouped = int(_GROUP_S * images_per_s + 0.9)
    batches = min(MAX_BATCHES, slots + prepared + grouped)
    return Feeding(feeders=feeders, processes=processes, batches=batches)
