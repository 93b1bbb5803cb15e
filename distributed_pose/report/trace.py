"""Collects the times of a run's batches for a trace, which Perfetto and Chromium open."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from pydantic_core import to_json

from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.shards import ShardResult
from distributed_pose.records.stages import DEVICE_STAGES
from distributed_pose.report.trace_clocks import Clock, clocks
from distributed_pose.report.trace_events import ROWS_PER_DEVICE, Event, ShardRecord, device_events

# This many batches are kept at the start of a run, and as many at its end. A batch has about 1.3 kB
# in the file.
_MAX_BATCHES = 10_000

_HOST_STAGES = ("read", "decode_jpeg", "preprocess")
_US_PER_S = 1e6


class _Kept(NamedTuple):
    device: str
    record: ShardRecord

    @property
    def num_batches(self) -> int:
        # A shard without batches takes memory, too.
        return max(1, len(self.record.times.batches))

    @property
    def end_s(self) -> float:
        return max(self.record.times.answered_s, self.record.times.reduced_s)


class Trace:
    """The trace of a run, which is bounded: the batches in the middle of a long run are left out.

    Args:
        devices: devices of the run.
        max_batches: number of batches that are kept at the start, and at the end.
    """

    def __init__(self, devices: Sequence[DeviceReady], max_batches: int = _MAX_BATCHES) -> None:
        self._devices = devices
        self._max = max_batches
        self._first: list[_Kept] = []
        self._last: deque[_Kept] = deque()
        self._num_first = self._num_last = self._num_left_out = 0

    def add(self, result: ShardResult) -> None:
        """Adds the result of a shard, unless its times are not known."""
        if result.times is None:
            return
        kept = _Kept(result.device, ShardRecord(result.times, _stages(result)))
        if self._num_first < self._max:
            self._first.append(kept)
            self._num_first += kept.num_batches
            return
        self._last.append(kept)
        self._num_last += kept.num_batches
        while self._num_last > self._max:
            num_batches = self._last.popleft().num_batches
            self._num_last -= num_batches
            self._num_left_out += num_batches

    def to_json(self) -> bytes:
        """Returns the trace as JSON: Chrome's trace format, in its form as an object."""
        kept = [*self._first, *self._last]
        nodes = {device.plan.name: device.plan.node_id for device in self._devices}
        by_node = clocks((nodes[one.device], one.record.times) for one in kept)
        start_s = min((one.record.times.sent_s for one in kept), default=0.0)
        by_device: dict[str, list[ShardRecord]] = defaultdict(list)
        for one in kept:
            by_device[one.device].append(one.record)
        events: list[Event] = []
        for number, device in enumerate(self._devices, 1):
            clock = by_node.get(device.plan.node_id, Clock())
            own = by_device[device.plan.name]
            events += device_events(number, device, own, clock, start_s)
        if self._num_left_out:
            events.append(self._gap(start_s))
        about = {
            "batches": self._num_first + self._num_last,
            "batches_left_out": self._num_left_out,
            "clock_error_us": {
                name: by_node[node].error_ns / 1e3
                for name, node in nodes.items()
                if node in by_node
            },
        }
        return to_json({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about})

    def _gap(self, start_s: float) -> Event:
        """Returns the mark at which the batches in the middle are left out."""
        end_s = max(one.end_s for one in self._first)
        return {
            "name": f"{self._num_left_out} batches left out",
            "ph": "i",
            "s": "g",
            "ts": (end_s - start_s) * _US_PER_S,
            "pid": 1,
            "tid": ROWS_PER_DEVICE,
        }


def _stages(result: ShardResult) -> tuple[Mapping[str, int], ...]:
    """Returns nanoseconds by stage for each batch of a shard, summed over the batch's images."""
    batches = result.times.batch_times if result.times else ()
    spans = [*pairwise(accumulate((batch.images for batch in batches), initial=0))]
    per_image = {stage: result.durations.get(stage, ()) for stage in _HOST_STAGES}
    per_batch = {stage: result.durations.get(stage, ()) for stage in DEVICE_STAGES}
    return tuple(
        {stage: sum(times_ns[start:end]) for stage, times_ns in per_image.items()}
        | {stage: sum(times_ns[number : number + 1]) for stage, times_ns in per_batch.items()}
        for number, (start, end) in enumerate(spans)
    )
