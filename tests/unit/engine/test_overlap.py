"""While a device executes one batch, the next is copied to it and the last is copied back."""

import json
from dataclasses import replace
from threading import Event
from time import monotonic, sleep

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_pose import ExecutionError
from distributed_pose.backends.base import Backend, BackendOptions, Inference, InputBatch
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.backends.simulated import SimulatedBackend
from distributed_pose.engine.device_queue import DeviceQueue
from distributed_pose.engine.worker import Worker
from distributed_pose.records.devices import Simulation
from distributed_pose.records.images import Geometry
from tests.conftest import Dataset
from tests.unit.engine.test_worker import shard_of, worker_of

NOBODY = json.dumps({"annotations": []}).encode()
BATCH = InputBatch((0,), (Geometry(8, 8, 0, 0, 0, 0),), np.zeros((1, 3, 8, 8), np.float32))


class Clock:
    """A clock that goes on while something sleeps, and at no other time."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def card(copy_in_ms: float, compute_ms: float, copy_out_ms: float, *, slots: int) -> Simulation:
    return Simulation(
        images_per_s=1e3 / compute_ms,
        jitter=0.0,
        copy_in_s=copy_in_ms / 1e3,
        copy_out_s=copy_out_ms / 1e3,
        slots=slots,
    )


def work_off(simulation: Simulation, num_batches: int) -> tuple[float, list[Inference]]:
    """Returns the milliseconds that a card takes for batches that all wait for it, and answers."""
    clock, queue, are_there = Clock(), DeviceQueue("cpu:0"), Event()
    options = BackendOptions(simulation=simulation)
    queue.open(lambda: SimulatedBackend(NOBODY, options, clock.read, clock.sleep))
    queue._thread.submit(are_there.wait, 10)
    answers = [queue.submit(BATCH) for _ in range(num_batches)]
    are_there.set()
    found = [answer.result(10) for answer in answers]
    queue.close()
    return (clock.now_s - 100) * 1e3, found


def test_copies_cost_a_card_with_two_slots_nothing_but_those_of_the_first_and_last_batch() -> None:
    num_batches = 200
    taken_ms, answers = work_off(card(1.0, 4.5, 1.0, slots=2), num_batches)
    assert taken_ms == pytest.approx(1.0 + 4.5 * num_batches + 1.0)
    assert {answer.times for answer in answers} == {(4_500_000, 1_000_000, 1_000_000)}
    assert num_batches / taken_ms > 0.95 / 4.5


def test_a_card_with_one_slot_does_one_thing_at_a_time() -> None:
    taken_ms, _ = work_off(card(1.0, 4.5, 1.0, slots=1), 20)
    assert taken_ms == pytest.approx(20 * (1.0 + 4.5 + 1.0))


@settings(max_examples=60)
@given(
    times_ms=st.tuples(*[st.floats(0.0, 9.0)] * 3).map(lambda t: (t[0], t[1] + 0.1, t[2])),
    slots=st.integers(1, 4),
    num_batches=st.integers(1, 30),
)
def test_a_card_is_as_fast_as_the_slowest_of_its_engines_if_it_has_slots_enough(
    times_ms: tuple[float, float, float], slots: int, num_batches: int
) -> None:
    taken_ms, _ = work_off(card(*times_ms, slots=slots), num_batches)
    # A slot is taken from the start of its batch's copy to the end of the other one.
    period_ms = max(*times_ms, sum(times_ms) / slots)
    assert taken_ms >= num_batches * max(times_ms) - 1e-6
    assert taken_ms <= num_batches * period_ms + sum(times_ms) + 1e-6


class Impatient(Backend):
    """The oracle behind two slots, which fails unless the next batch is there before an answer is.

    Args:
        content: of the oracle.
        num_batches: after which no further one is waited for.
    """

    precision, description, slots = "f32", "impatient", 2

    def __init__(self, content: bytes, num_batches: int) -> None:
        self._oracle = OracleBackend(content, BackendOptions())
        self.num_left = num_batches
        self.worker: Worker | None = None
        self._num_under_way = 0

    def submit(self, batch: InputBatch) -> None:
        self.num_left -= 1
        self._num_under_way += 1
        self._oracle.submit(batch)

    def collect(self) -> Inference:
        deadline_s = monotonic() + 10
        while self.worker and self.num_left and not self._has_next(self.worker):
            if monotonic() > deadline_s:
                raise ExecutionError("the next batch does not come")
            sleep(0.001)
        self._num_under_way -= 1
        return self._oracle.collect()

    def _has_next(self, worker: Worker) -> bool:
        pipeline = worker._queue._pipeline
        return self._num_under_way > 1 or bool(pipeline and pipeline.ready)

    def close(self) -> None:
        self._oracle.close()


@pytest.mark.parametrize("gather", ["maps", "poses"])
def test_a_worker_prepares_the_next_batch_while_the_device_has_one(
    people: Dataset, gather: str
) -> None:
    plain, spec = worker_of(people, batch_size=2, gather=gather)
    shard = shard_of(people, 12)

    class Prepared(Worker):
        def _open_backend(self) -> Backend:
            return device

    device = Impatient(plain._model, 6)
    worker = Prepared(spec, plain._model)
    plain.start()
    # What is tried at the start comes one by one.
    worker.start()
    device.worker, device.num_left = worker, 6
    expected, expected_report = plain.infer_and_group(shard.images)
    found, report = worker.infer_and_group(shard.images)
    plain.close()
    worker.close()
    assert found.detections == expected.detections
    assert report.digests == expected_report.digests
    assert len(report.durations["compute"]) == 6
    assert replace(report, durations={}) == replace(expected_report, durations={})
