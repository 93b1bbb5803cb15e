"""The queue of a device runs the batches of several threads in its slots, each batch once."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event, current_thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_pose import ExecutionError, SetupError
from distributed_pose.backends.base import (
    Backend,
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
)
from distributed_pose.engine.device_queue import DeviceQueue
from distributed_pose.records.images import Geometry

MAPS = NetworkOutput(np.zeros((1, 19, 1, 1), np.float32), np.zeros((1, 38, 1, 1), np.float32))


def batch(number: int) -> InputBatch:
    inputs = np.zeros((1, 3, 8, 8), np.float32)
    return InputBatch((number,), (Geometry(8, 8, 0, 0, 0, 0),), inputs)


class Device(Backend):
    """Answers with the batch's number as its time, and keeps to the protocol or fails the test.

    Args:
        slots: number of slots.
        bad: batches that fail, in `submit` or in flight; the next call of the device then raises
            the error, whichever batch the call is for.

    Calls wait while `gate` is closed.
    """

    precision = "f32"
    description = "made up"

    def __init__(self, slots: int = 2, bad: dict[int, str] | None = None) -> None:
        self.slots = slots
        self.bad = bad or {}
        self.calls: list[tuple[str, int]] = []
        self.under_way: deque[int] = deque()
        self.most_under_way = 0
        self.threads = {current_thread().name}
        self.is_closed = False
        self.gate = Event()
        self.gate.set()

    def prepare(self, batch: InputBatch) -> None:
        self._enter("prepare", batch.image_ids[0])
        assert not self.under_way

    def submit(self, batch: InputBatch) -> None:
        number = self._enter("submit", batch.image_ids[0])
        assert len(self.under_way) < self.slots
        self._fail_if("submit", [number])
        self._fail_if("run", self.under_way)
        self.under_way.append(number)
        self.most_under_way = max(self.most_under_way, len(self.under_way))

    def collect(self) -> Inference:
        number = self._enter("collect", self.under_way[0])
        self._fail_if("run", self.under_way)
        self.under_way.popleft()
        return Inference(MAPS, DeviceTimes(number))

    def close(self) -> None:
        self._enter("close", -1)
        self.is_closed = True

    def _enter(self, call: str, number: int) -> int:
        self.gate.wait(10)
        assert not self.is_closed
        self.calls.append((call, number))
        self.threads.add(current_thread().name)
        return number

    def _fail_if(self, kind: str, numbers: Sequence[int] | deque[int]) -> None:
        if failing := [number for number in numbers if self.bad.get(number) == kind]:
            self.under_way.clear()
            raise ExecutionError(f"batch {failing[0]}")


@contextmanager
def opened(device: Callable[[], Device]) -> Iterator[tuple[DeviceQueue, Device]]:
    queue, made = DeviceQueue("cpu:0"), []
    queue.open(lambda: made.append(device()) or made[0])  # type: ignore[func-returns-value]
    try:
        yield queue, made[0]
    finally:
        queue.close()


def outcomes(answers: Sequence["Future[Inference]"]) -> list[int | str]:
    """Returns the number of each batch, or its error."""
    return [
        str(error) if (error := answer.exception(10)) else answer.result().times.compute_ns
        for answer in answers
    ]


def test_the_oldest_is_collected_when_no_slot_is_free_or_nothing_else_is_ready() -> None:
    with opened(Device) as (queue, device):
        device.gate.clear()
        answers = [queue.submit(batch(number)) for number in range(4)]
        device.gate.set()
        assert outcomes(answers) == [0, 1, 2, 3]
    calls = [f"{call} {number}" for call, number in device.calls]
    assert calls[:4] == ["submit 0", "submit 1", "collect 0", "submit 2"]
    assert calls[4:] == ["collect 1", "submit 3", "collect 2", "collect 3", "close -1"]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_device_never_has_more_batches_in_flight_than_slots(slots: int) -> None:
    with opened(lambda: Device(slots)) as (queue, device):
        device.gate.clear()
        first = queue.submit(batch(0))
        others = [queue.submit(batch(number)) for number in range(1, 8)]
        device.gate.set()
        assert outcomes([first, *others]) == [*range(8)]
    assert device.most_under_way == slots


def test_batches_of_several_threads_share_the_device_and_go_to_their_own_threads() -> None:
    start = Barrier(4)

    def caller(first: int) -> list[int | str]:
        start.wait(10)
        return outcomes([queue.submit(batch(number)) for number in range(first, first + 20)])

    with opened(Device) as (queue, device), ThreadPoolExecutor(4) as threads:
        found = list(threads.map(caller, range(0, 400, 100)))
    assert found == [[*range(first, first + 20)] for first in range(0, 400, 100)]
    assert device.most_under_way == 2
    # Contexts of vendors' runtimes belong to a thread.
    assert len(device.threads) == 1
    assert current_thread().name not in device.threads


@pytest.mark.parametrize("kind", ["submit", "run"])
def test_a_batch_that_fails_fails_alone(kind: str) -> None:
    with opened(lambda: Device(3, {2: kind})) as (queue, device):
        device.gate.clear()
        answers = [queue.submit(batch(number)) for number in range(6)]
        device.gate.set()
        assert outcomes(answers) == [0, 1, "batch 2", 3, 4, 5]


def test_a_device_is_prepared_for_a_size_while_nothing_is_in_flight() -> None:
    with opened(Device) as (queue, device), ThreadPoolExecutor(1) as thread:
        device.gate.clear()
        answers = [queue.submit(batch(number)) for number in range(3)]
        preparing = thread.submit(queue.prepare, batch(3))
        device.gate.set()
        preparing.result(10)
        assert outcomes(answers) == [0, 1, 2]
    assert device.calls[-2:] == [("prepare", 3), ("close", -1)]
    with pytest.raises(SetupError, match="not started"):
        queue.prepare(batch(0))


def test_an_error_of_the_only_batch_is_not_tried_again() -> None:
    with opened(lambda: Device(2, {0: "run"})) as (queue, device):
        assert outcomes([queue.submit(batch(0))]) == ["batch 0"]
    assert device.calls[:-1] == [("submit", 0), ("collect", 0)]


@settings(deadline=None, max_examples=200)
@given(
    slots=st.integers(1, 4),
    bad=st.dictionaries(st.integers(0, 11), st.sampled_from(["submit", "run"]), max_size=6),
    groups=st.lists(st.integers(1, 4), max_size=3),
    threads=st.integers(1, 3),
    cancelled=st.sets(st.integers(0, 11)),
)
def test_each_batch_is_answered_once_whatever_fails_and_is_cancelled(
    slots: int, bad: dict[int, str], groups: list[int], threads: int, cancelled: set[int]
) -> None:
    numbers = iter(range(12))
    parts = [[next(numbers) for _ in range(size)] for size in groups]
    with opened(lambda: Device(slots, bad)) as (queue, device):

        def caller(part: list[int]) -> dict[int, "Future[Inference]"]:
            answers = {number: queue.submit(batch(number)) for number in part}
            for number in cancelled & answers.keys():
                answers[number].cancel()
            return answers

        with ThreadPoolExecutor(threads) as pool:
            found = {n: answer for part in pool.map(caller, parts) for n, answer in part.items()}
        kept = {number: answer for number, answer in found.items() if not answer.cancelled()}
        expected = [f"batch {number}" if number in bad else number for number in kept]
        assert outcomes([*kept.values()]) == expected
    assert device.is_closed
    assert device.most_under_way <= slots
    # What was cancelled before its turn never met the device.
    assert {number for call, number in device.calls if call == "submit"} == set(kept)


def test_submitted_batches_run_before_the_device_is_closed() -> None:
    with opened(Device) as (queue, device):
        device.gate.clear()
        answers = [queue.submit(batch(number)) for number in range(3)]
        with ThreadPoolExecutor(1) as thread:
            closing = thread.submit(queue.close)
            device.gate.set()
            closing.result(10)
        assert [answer.done() for answer in answers] == [True] * 3
        assert outcomes(answers) == [0, 1, 2]
        assert device.calls[-1] == ("close", -1)
        with pytest.raises(SetupError, match="not started"):
            queue.submit(batch(4))
        queue.close()
    assert device.calls.count(("close", -1)) == 1


def test_a_device_that_cannot_be_opened_says_why_and_can_be_closed() -> None:
    def fail() -> Backend:
        raise SetupError("no such card")

    queue = DeviceQueue("cuda:0")
    with pytest.raises(SetupError, match="no such card"):
        queue.open(fail)
    with pytest.raises(SetupError, match="not started"):
        queue.submit(batch(0))
    queue.close()


def test_a_device_that_cannot_be_freed_says_so_once() -> None:
    class Stuck(Device):
        def close(self) -> None:
            raise ExecutionError("the card does not answer")

    queue = DeviceQueue("cuda:0")
    queue.open(Stuck)
    with pytest.raises(ExecutionError, match="does not answer"):
        queue.close()
    queue.close()
