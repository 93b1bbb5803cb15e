"""The dispatch loop on stubs of actors, whose answers a test decides on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from distributed_pose import ExecutionError, RunConfig
from distributed_pose.cluster.answers import CallFailure
from distributed_pose.cluster.backpressure import InFlightBudget
from distributed_pose.cluster.calls import Actor, Call
from distributed_pose.cluster.loop import DispatchLoop, DispatchSettings
from distributed_pose.cluster.schedule import Deadlines, FreeActors
from distributed_pose.data.shards import list_shards, no_detections, unpack_images
from distributed_pose.engine.health import Health
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.task_queue import Task, TaskQueue
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.records.images import ImageRecord

SIZE = 2


def good(packed: bytes) -> tuple[Reduction, WorkerReport]:
    ids = tuple(unpack_images(packed).column("image_id").to_pylist())
    report = WorkerReport(
        image_ids=ids,
        encoded_bytes=ids,
        failures=(),
        durations={},
        digests=tuple(f"{image_id:016x}" for image_id in ids),
    )
    return Reduction(image_ids=ids, detections=no_detections(), durations={}), report


@dataclass(eq=False)
class Handle:
    """A process that answers when it is asked to wait."""

    answers: "Answers"

    @property
    def process(self) -> "Handle":
        return self

    def options(self, **_: object) -> "Handle":
        return self

    def remote(self, packed: bytes) -> object:
        reference = object()
        self.answers.asked[reference] = packed
        return reference


@dataclass
class Answers:
    """All calls are done when they are waited for, in the reverse order."""

    answer: Callable[[bytes], object] = good
    asked: dict[object, bytes] = field(default_factory=dict)
    together: list[int] = field(default_factory=list)

    def wait(self, references: Sequence[Any], deadline_at: float | None) -> Sequence[Any]:
        assert references
        assert deadline_at is not None
        self.together.append(len(references))
        return references[::-1]

    def fetch(self, references: Sequence[Any]) -> Sequence[Any]:
        return [self.answer(self.asked.pop(reference)) for reference in references]


@dataclass
class Pool:
    """Workers whose processes are started again at once."""

    workers: list[Actor]
    reducers: tuple[Actor, ...] = ()
    is_stopped: bool = False

    @property
    def starting(self) -> Mapping[Any, Actor]:
        return {}

    def restart(
        self, actor: Actor, reason: str, *, is_suspect: bool = False, final: bool = False
    ) -> bool:
        actor.health.fault(reason, final=final, is_suspect=is_suspect)
        if actor.health.is_excluded:
            actor.handle = None
        return False

    def finish_start(self, actor: Actor) -> None:
        raise AssertionError(actor.name)


def actor(answers: Answers, name: str) -> Actor:
    one = Actor(name, lambda: (Handle(answers), None), Health(60.0))
    one.launch()
    return one


def loop(answers: Answers, devices: int, images: int, in_flight: int = 3) -> DispatchLoop:
    names = [f"cpu:{number}" for number in range(devices)]
    records = [ImageRecord(number, f"{number}.jpg", 4, 6) for number in range(images)]
    queue = TaskQueue(
        list_shards(records, SIZE), dict.fromkeys(names, SIZE), num_images=len(records)
    )
    settings = DispatchSettings(gather="poses", in_flight=dict.fromkeys(names, in_flight))
    budget = InFlightBudget(RunConfig(gather="poses"), room_bytes=2**30)
    pool = Pool([actor(answers, name) for name in names])
    return DispatchLoop(pool, queue, budget, answers, settings)


def evaluated(results: Iterator[list[Any]]) -> list[int]:
    return sorted(i for some in results for result in some for i in result.image_ids)


def test_all_available_results_are_taken_with_one_wait() -> None:
    answers = Answers()
    assert evaluated(loop(answers, devices=4, images=100).results()) == [*range(100)]
    # Fifty shards in groups of four devices with three calls each.
    assert answers.together == [12, 12, 12, 12, 2]


def test_calls_are_spread_over_the_devices_before_any_has_a_second_one() -> None:
    answers = Answers()
    results = loop(answers, devices=4, images=8).results()
    assert [result.device for result in next(results)] == [f"cpu:{n}" for n in (3, 2, 1, 0)]


def test_results_that_come_together_with_the_failure_of_their_actor_are_kept() -> None:
    def answer(packed: bytes) -> object:
        reduction, report = good(packed)
        first = not failed and 0 in report.image_ids
        failed.extend([0] * first)
        return CallFailure("its process died") if first else (reduction, report)

    failed: list[int] = []
    answers = Answers(answer)
    results = loop(answers, devices=1, images=20).results()
    # Of three calls two have results, and the third is tried again.
    assert evaluated(iter([next(results)])) == [2, 3, 4, 5]
    assert evaluated(results) == [0, 1, *range(6, 20)]


def test_a_run_whose_devices_all_fail_ends_at_once() -> None:
    answers = Answers(lambda _: CallFailure("it fell off the bus", RuntimeError()))
    with pytest.raises(ExecutionError, match=r"no device is left.*fell off the bus"):
        evaluated(loop(answers, devices=3, images=100).results())


def call(name: str = "cpu:0", limit_s: float = 1.0, since: float = 0.0) -> Call:
    shard = next(list_shards([ImageRecord(1, "1.jpg", 4, 6)], 1))
    one = actor(Answers(), name)
    budget = InFlightBudget(RunConfig(gather="poses"), room_bytes=0)
    load = budget.reserve(shard)
    return Call(one, Task(shard), load, name, object(), None, limit_s, since=since)


def test_the_deadline_that_comes_first_is_next_and_calls_that_are_done_have_none() -> None:
    deadlines = Deadlines()
    late, early = call(limit_s=9.0), call(limit_s=5.0)
    for one in (late, early):
        deadlines.add(one)
    assert deadlines.next_at == 5.0
    deadlines.remove(early)
    assert deadlines.next_at == 9.0
    assert deadlines.passed(8.0) == []
    assert deadlines.passed(9.5) == [late]
    late.is_late = True
    deadlines.add(late)
    assert deadlines.next_at == 18.0
    deadlines.remove(late)
    assert deadlines.next_at is None


def test_the_actor_with_the_fewest_calls_is_next_and_each_occurs_once() -> None:
    busy, idle = (actor(Answers(), name) for name in ("cpu:0", "cpu:1"))
    free = FreeActors([busy, idle])
    busy.calls.append(call())
    free.offer(busy)
    assert [free.take(), free.take(), free.take()] == [idle, busy, None]
    free.reject(idle)
    assert free.take() is None
    free.offer_rejected()
    assert [free.take(), free.take()] == [idle, None]
