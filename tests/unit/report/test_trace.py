"""A trace has every batch on its device, in the fields that Chrome's format documents."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose.data.shards import no_detections
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.shards import BatchTimes, ShardResult, ShardTimes
from distributed_pose.report.trace import Trace
from distributed_pose.report.trace_clocks import clocks
from tests.traces import Event, check_format, check_rows, slices

MS = 1_000_000


def ready(name: str, node: str = "") -> DeviceReady:
    return DeviceReady(
        plan=DevicePlan(name=name, kind="cpu", node="", node_id=node, cpus=1),
        backend="oracle",
        precision="f32",
        description="a processor",
        batch_size=2,
        warmup_ns=0,
    )


def batch_at(start_ms: int, *, waits_ms: int = 1) -> BatchTimes:
    """Returns a batch that is prepared for 3 ms, then waits, computes for 4 and is packed for 1."""
    started = start_ms + 3 + waits_ms
    times_ms = (start_ms, start_ms + 3, started, started + 4, started + 4, started + 5)
    return BatchTimes(2, *(time_ms * MS for time_ms in times_ms))


def result(device: str, times: ShardTimes, *, read: bool = True, copies_ms: int = 0) -> ShardResult:
    count = len(times.batches)
    durations = {
        "decode_jpeg": (MS,) * 2 * count,
        "preprocess": (MS,) * 2 * count,
        "copy_in": (copies_ms * MS,) * count,
        "compute": ((4 - 2 * copies_ms) * MS,) * count,
        "copy_out": (copies_ms * MS,) * count,
    }
    if read:
        durations["read"] = (MS,) * 2 * count
    return ShardResult(
        device=device,
        image_ids=tuple(range(2 * count)),
        detections=no_detections(),
        durations=durations,
        times=times,
    )


def shard_at(start_ms: int, *, reducer: str = "") -> ShardTimes:
    """Returns a shard of one batch, which waits 2 ms for a reducer if it needs one."""
    times = ShardTimes(
        sent_s=(start_ms - 1) / 1e3, answered_s=(start_ms + 10) / 1e3, batches=(batch_at(start_ms),)
    )
    if not reducer:
        return times
    return ShardTimes(
        sent_s=times.sent_s,
        answered_s=times.answered_s,
        reducer=reducer,
        reduce_s=times.answered_s + 0.002,
        reduced_s=times.answered_s + 0.005,
        batches=times.batches,
    )


def events_of(trace: Trace) -> list[Event]:
    events: list[Event] = json.loads(trace.to_json())["traceEvents"]
    return events


def test_a_batch_has_its_host_stages_its_device_and_its_waits() -> None:
    trace = Trace([ready("cpu:0")])
    trace.add(result("cpu:0", shard_at(11, reducer="reducer:0"), copies_ms=1))
    found = slices(events_of(trace))
    assert found == {
        "shard": (0, pytest.approx(16)),
        "at the worker": (0, 11),
        "wait for a reducer": (11, 2),
        "group": (13, 3),
        "batch": (1, 9),
        "prepare": (1, 3),
        "read": (1, 1),
        "decode and preprocess": (2, 2),
        "wait for the device": (4, 1),
        "on the device": (5, 4),
        "copy in": (5, 1),
        "compute": (6, 2),
        "copy out": (8, 1),
        "pack": (9, 1),
    }


def test_a_worker_that_groups_has_no_wait_for_a_reducer() -> None:
    trace = Trace([ready("cpu:0")])
    trace.add(result("cpu:0", shard_at(11), read=False))
    found = slices(events_of(trace))
    assert "wait for a reducer" not in found
    assert found["group"] == (9, 1)
    assert found["decode and preprocess"] == found["prepare"]


def test_each_device_is_a_process_with_its_own_batches() -> None:
    trace = Trace([ready("cpu:0"), ready("cpu:1")])
    trace.add(result("cpu:1", shard_at(11)))
    events = events_of(trace)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "cpu:0 (oracle, f32, batch 2)", 2: "cpu:1 (oracle, f32, batch 2)"}
    assert not slices(events, process=1)
    assert "compute" in slices(events, process=2)


def test_a_result_without_times_is_left_out() -> None:
    trace = Trace([ready("cpu:0")])
    trace.add(ShardResult(device="cpu:0", image_ids=(), detections=no_detections()))
    assert not slices(events_of(trace))


STARTS = st.lists(st.integers(1, 200), min_size=1, max_size=30)


@given(STARTS, st.booleans())
def test_every_trace_has_the_documented_fields_and_rows_that_nest(
    starts_ms: list[int], groups: bool
) -> None:
    trace = Trace([ready("cpu:0")])
    for start_ms in starts_ms:
        trace.add(result("cpu:0", shard_at(start_ms, reducer="" if groups else "reducer:0")))
    content = json.loads(trace.to_json())
    check_format(content)
    check_rows(content["traceEvents"])
    batches = [e for e in content["traceEvents"] if e["name"] == "batch"]
    assert len(batches) == len(starts_ms)


def test_an_execution_whose_answer_was_collected_late_is_placed_before_the_next_one() -> None:
    late = BatchTimes(2, *(time_ms * MS for time_ms in (1, 4, 5, 13, 13, 14)))
    after = BatchTimes(2, *(time_ms * MS for time_ms in (1, 4, 6, 16, 16, 17)))
    trace = Trace([ready("cpu:0")])
    trace.add(result("cpu:0", ShardTimes(sent_s=0.0, answered_s=0.018, batches=(late, after))))
    computed = [e for e in events_of(trace) if e["name"] == "compute"]
    assert [(e["ts"], e["dur"]) for e in computed] == [(8000, 4000), (12000, 4000)]
    assert len({e["tid"] for e in computed}) == 1


def test_batches_that_a_device_executes_at_once_are_on_rows_of_their_own() -> None:
    trace = Trace([ready("cpu:0")])
    trace.add(result("cpu:0", shard_at(11)))
    trace.add(result("cpu:0", shard_at(12)))
    computed = [e for e in events_of(trace) if e["name"] == "compute"]
    assert {e["dur"] for e in computed} == {4000}
    assert len({e["tid"] for e in computed}) == 2


def test_a_long_run_keeps_its_start_and_its_end_and_says_what_is_left_out() -> None:
    trace = Trace([ready("cpu:0")], max_batches=10)
    for number in range(1000):
        trace.add(result("cpu:0", shard_at(20 * number + 1)))
    content = json.loads(trace.to_json())
    starts_ms = [e["ts"] / 1e3 for e in content["traceEvents"] if e["name"] == "shard"]
    kept = [*range(10), *range(990, 1000)]
    assert sorted(starts_ms) == pytest.approx([20 * number for number in kept])
    assert content["otherData"]["batches_left_out"] == 980
    (mark,) = [e for e in content["traceEvents"] if e["ph"] == "i"]
    assert mark["name"] == "980 batches left out"
    assert starts_ms[9] <= mark["ts"] / 1e3 <= starts_ms[10]
    check_format(content)


DELAYS = st.tuples(st.integers(0, 5 * MS), st.integers(0, 5 * MS))


@given(st.integers(-(10**15), 10**15), st.lists(DELAYS, min_size=1, max_size=20))
def test_the_clock_of_a_node_is_found_within_its_stated_error(
    offset_ns: int, delays_ns: list[tuple[int, int]]
) -> None:
    shards = []
    for number, (there_ns, back_ns) in enumerate(delays_ns, 1):
        sent_ns = number * 100 * MS
        begin_ns = sent_ns + there_ns
        end_ns = begin_ns + 10 * MS
        times = (begin_ns, begin_ns, begin_ns, end_ns, end_ns, end_ns)
        batch = BatchTimes(1, *(time_ns + offset_ns for time_ns in times))
        answered_s = (end_ns + back_ns) / 1e9
        shards.append(
            ("node", ShardTimes(sent_s=sent_ns / 1e9, answered_s=answered_s, batches=(batch,)))
        )
    clock = clocks(shards)["node"]
    # A clock that can be the driver's own is taken for it. Seconds as floats cost some nanoseconds.
    widest_ns = sum(min(delays) for delays in zip(*delays_ns, strict=True))
    assert abs(clock.offset_ns - offset_ns) <= (clock.error_ns or widest_ns) + 1000
    assert clock.error_ns <= widest_ns / 2 + 1000


def test_the_batches_of_a_node_with_another_clock_lie_in_their_shards() -> None:
    trace = Trace([ready("cpu:0", "near"), ready("cpu:1", "far")])
    trace.add(result("cpu:0", shard_at(11)))
    far = shard_at(11)
    batch = BatchTimes(2, *(time_ns + 10**15 for time_ns in far.batches[0][1:]))
    trace.add(
        result("cpu:1", ShardTimes(sent_s=far.sent_s, answered_s=far.answered_s, batches=(batch,)))
    )
    content = json.loads(trace.to_json())
    found = slices(content["traceEvents"], process=2)
    assert found["batch"] == (pytest.approx(1, abs=0.5), 9)
    assert content["otherData"]["clock_error_us"]["cpu:0"] == 0
    assert content["otherData"]["clock_error_us"]["cpu:1"] == pytest.approx(1000, abs=1)
