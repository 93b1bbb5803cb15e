"""Brings the clocks of a run's nodes together, as far as the times of its shards allow.

Monotonic clocks start with their machine, so those of two nodes differ by any amount. But no batch
begins before its shard was sent, and none ends after the answer was there. Each shard thus bounds
the difference between the clock of its node and that of the driver from both sides.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from distributed_pose.records.shards import ShardTimes

_NS = 1e9


@dataclass(frozen=True)
class Clock:
    """The clock of a node.

    Attributes:
        offset_ns: its time minus that of the driver, in nanoseconds.
        error_ns: largest error of the offset, if neither clock drifts.
    """

    offset_ns: float = 0.0
    error_ns: float = 0.0

    def driver_s(self, time_ns: int) -> float:
        """Returns a time of the clock in seconds of the driver's clock."""
        return (time_ns - self.offset_ns) / _NS


def clocks(shards: Iterable[tuple[str, ShardTimes]]) -> dict[str, Clock]:
    """Returns the clock of each node that has evaluated a batch.

    Args:
        shards: shards of the run, each with the id of its node.
    """
    bounds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for node, times in shards:
        if times.batches:
            low = max(batch.finished_ns for batch in times.batch_times) - times.answered_s * _NS
            high = min(batch.prepare_ns for batch in times.batch_times) - times.sent_s * _NS
            bounds[node].append((low, high))
    return {node: _clock(*zip(*found, strict=True)) for node, found in bounds.items()}


def _clock(lows: tuple[float, ...], highs: tuple[float, ...]) -> Clock:
    low, high = max(lows), min(highs)
    # Processes of one machine have one clock, and a difference of 0 is then exact.
    if low <= 0 <= high:
        return Clock()
    return Clock((low + high) / 2, abs(high - low) / 2)
