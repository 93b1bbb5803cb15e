"""The events of a device in a trace in Chrome's format.

Source: "Trace Event Format", the description of the format by the Chromium project. Times are in
microseconds since the start of the trace.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.shards import BatchTimes, ShardTimes
from distributed_pose.records.stages import DEVICE_STAGES
from distributed_pose.report.trace_clocks import Clock

_NS_PER_US, _US_PER_S = 1e3, 1e6

# The rows of a process have numbers of their own, because readers of the format disagree whether
# the number of a thread is unique per process only.
ROWS_PER_DEVICE = 1000
_ROWS_PER_GROUP = 300

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard that a device has evaluated.

    Attributes:
        times: times of its steps.
        stages: nanoseconds by stage for each of its batches, summed over the batch's images.
    """

    times: ShardTimes
    stages: tuple[Mapping[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Slice:
    """A span of time on a row, with the spans inside it."""

    name: str
    start_us: float
    end_us: float
    args: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence["_Slice"] = ()


def device_events(
    number: int,
    device: DeviceReady,
    shards: Sequence[ShardRecord],
    clock: Clock,
    start_s: float,
) -> Iterator[Event]:
    """Yields the events of a device, which is a process of the trace.

    Args:
        number: number of the device, from 1.
        device: the device.
        shards: shards that the device has evaluated.
        clock: clock of the device's node.
        start_s: start of the trace in seconds of the driver's clock.
    """
    title = f"{device.plan.name} ({device.backend}, {device.precision}, batch {device.batch_size})"
    yield _about(number, 0, "process_name", name=title)
    yield _about(number, 0, "process_sort_index", sort_index=number)
    batches = [
        (_since_start(batch, clock, start_s), stages, record.times.reducer)
        for record in shards
        for batch, stages in zip(record.times.batch_times, record.stages, strict=True)
    ]
    rows = {
        "device": _on_device([(times, stages) for times, stages, _ in batches]),
        "batch": [_batch(*batch) for batch in batches],
        "shard": [_shard(record.times, start_s) for record in shards],
    }
    for group, (name, slices) in enumerate(rows.items()):
        first_row = number * ROWS_PER_DEVICE + group * _ROWS_PER_GROUP
        yield from _rows(number, first_row, name, slices)


def _about(process: int, row: int, kind: str, **values: object) -> Event:
    return {"name": kind, "ph": "M", "pid": process, "tid": row, "args": values}


def _since_start(batch: BatchTimes, clock: Clock, start_s: float) -> dict[str, float]:
    """Returns the times of a batch in microseconds since the start of the trace."""
    values = batch._asdict()
    images = values.pop("images")
    since = {
        name: (clock.driver_s(time_ns) - start_s) * _US_PER_S for name, time_ns in values.items()
    }
    return {"images": images, **since}


def _batch(times: Mapping[str, float], stages: Mapping[str, int], reducer: str) -> _Slice:
    """Returns the span of a batch in its worker, with its host stages and its waits."""
    prepare, prepared = times["prepare_ns"], times["prepared_ns"]
    parts = [
        _Slice("prepare", prepare, prepared, parts=_shares(prepare, prepared, stages)),
        _Slice("wait for the device", prepared, times["started_ns"]),
        _Slice("on the device", times["started_ns"], times["answered_ns"]),
        _Slice("pack" if reducer else "group", times["finish_ns"], times["finished_ns"]),
    ]
    images = {"images": times["images"]}
    return _Slice("batch", prepare, times["finished_ns"], images, parts)


def _shares(start_us: float, end_us: float, stages: Mapping[str, int]) -> list[_Slice]:
    """Returns the host stages of a batch, whose widths are their shares of the time.

    The images of a batch are prepared in parallel, so that the stages of one overlap with those of
    another. The sum of the times is in the arguments.
    """
    sums_ns = {
        "read": stages["read"],
        "decode and preprocess": stages["decode_jpeg"] + stages["preprocess"],
    }
    total_ns = sum(sums_ns.values())
    slices, at_us = list[_Slice](), start_us
    for name, sum_ns in sums_ns.items():
        if sum_ns:
            until_us = at_us + (end_us - start_us) * sum_ns / total_ns
            slices.append(_Slice(name, at_us, until_us, {"sum_us": sum_ns / _NS_PER_US}))
            at_us = until_us
    return slices


def _on_device(batches: Sequence[tuple[Mapping[str, float], Mapping[str, int]]]) -> list[_Slice]:
    """Returns the copies and executions of batches on a device.

    Only their durations are known, and the times at which the device was given the batch and at
    which the answer was collected. If the answer was collected late, the execution is placed before
    that of the next batch.
    """
    slices, next_us = list[_Slice](), float("inf")
    for times, stages in sorted(batches, key=lambda pair: pair[0]["answered_ns"], reverse=True):
        in_us, compute_us, out_us = (stages[stage] / _NS_PER_US for stage in DEVICE_STAGES)
        latest_us = times["answered_ns"] - out_us - compute_us
        # No batch begins before the device was given it.
        earliest_us = min(times["started_ns"] + in_us, latest_us)
        next_us = max(min(latest_us, next_us - compute_us), earliest_us)
        end_us = next_us + compute_us
        slices.append(_Slice("compute", next_us, end_us, {"images": times["images"]}))
        if in_us:
            slices.append(_Slice("copy in", next_us - in_us, next_us))
        if out_us:
            slices.append(_Slice("copy out", end_us, end_us + out_us))
    return slices


def _shard(times: ShardTimes, start_s: float) -> _Slice:
    """Returns the span of a shard in the driver, with its wait for a reducer."""
    sent, answered, reduce, reduced = (
        (at_s - start_s) * _US_PER_S
        for at_s in (times.sent_s, times.answered_s, times.reduce_s, times.reduced_s)
    )
    images = {"images": sum(batch.images for batch in times.batch_times)}
    parts = [_Slice("at the worker", sent, answered)]
    if not times.reducer:
        return _Slice("shard", sent, answered, images, parts)
    parts += [
        _Slice("wait for a reducer", answered, reduce),
        _Slice("group", reduce, reduced, {"reducer": times.reducer}),
    ]
    return _Slice("shard", sent, reduced, images, parts)


def _rows(process: int, first_row: int, name: str, slices: Iterable[_Slice]) -> Iterator[Event]:
    """Yields slices on as few rows as they need, since those of a row must not overlap."""
    ends_us: list[float] = []
    for one in sorted(slices, key=lambda one: one.start_us):
        free = (row for row, end_us in enumerate(ends_us) if end_us <= one.start_us)
        row = next(free, len(ends_us))
        if row == len(ends_us):
            ends_us.append(0.0)
            number = first_row + row
            yield _about(process, number, "thread_name", name=f"{name} {row + 1}")
            yield _about(process, number, "thread_sort_index", sort_index=number)
        ends_us[row] = one.end_us
        yield from _complete(process, first_row + row, one)


def _complete(process: int, row: int, one: _Slice) -> Iterator[Event]:
    """Yields the event of a slice, and those of the slices inside it."""
    # Readers round to nanoseconds, and a slice must not end after the one that it is in.
    start_ns = max(0, round(one.start_us * _NS_PER_US))
    end_ns = max(start_ns, round(one.end_us * _NS_PER_US))
    yield {
        "name": one.name,
        "ph": "X",
        "ts": start_ns / _NS_PER_US,
        "dur": (end_ns - start_ns) / _NS_PER_US,
        "pid": process,
        "tid": row,
        **({"args": one.args} if one.args else {}),
    }
    yield from chain.from_iterable(_complete(process, row, part) for part in one.parts)
