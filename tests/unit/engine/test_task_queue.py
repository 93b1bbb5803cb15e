"""The task queue joins shards to tasks, and hands out every image and every retry once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose.config.loading import parse_config
from distributed_pose.data.shards import IMAGES, Shard, no_detections
from distributed_pose.engine import task_queue as module
from distributed_pose.engine.base import Workload
from distributed_pose.engine.health import Health
from distributed_pose.engine.inline import InlineEngine, _Device
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.task_queue import Task, TaskQueue
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.records.images import Failure

TWO = ("a", "b")


def shard(number: int, *image_ids: int, failed: Sequence[int] = ()) -> Shard:
    rows = [(i, f"{i}.jpg", 4, 6, b"jpeg of %d" % i) for i in image_ids]
    columns = zip(*rows, strict=True) if rows else [[] for _ in IMAGES]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, IMAGES, strict=True)]
    failures = tuple(Failure(i, f"{i}.jpg", "unreadable") for i in failed)
    return Shard(
        number, pa.record_batch(arrays, schema=IMAGES), failures, tuple(10 * i for i in image_ids)
    )


def ids(one: Shard | Task) -> list[int]:
    images = one.shard.images if isinstance(one, Task) else one.images
    found: list[int] = images.column("image_id").to_pylist()
    return found


def take(
    work: TaskQueue, device: str = "a", usable: Sequence[str] = ("a",), *, is_idle: bool = True
) -> Task:
    task = work.take(device, usable, is_idle=is_idle)
    assert task is not None
    return task


def numbers(work: TaskQueue) -> list[int]:
    """Returns the numbers of the shards that are left, which are taken as done."""
    found = []
    while work.has_pending():
        task = take(work)
        task.is_done = True
        found.append(task.shard.number)
    return found


def fail_twice(work: TaskQueue, *, reason: str = "broken") -> tuple[Failure, ...]:
    """Fails the next task on two devices."""
    first = take(work, "a", TWO)
    assert work.fail(first, "a", reason) == ()
    assert take(work, "b", TWO) is first
    return work.fail(first, "b", reason)


def test_small_shards_are_joined_to_the_batch_of_a_device() -> None:
    work = TaskQueue(iter([shard(number, number) for number in range(7)]), {"a": 1, "b": 4})
    assert ids(take(work, "b", TWO)) == [0, 1, 2, 3]
    assert ids(take(work, "a", TWO)) == [4]
    last = take(work, "b", TWO)
    assert ids(last) == [5, 6]
    assert last.shard.number == 5
    assert last.shard.read_ns == (50, 60)
    assert work.take("a", TWO) is None


def test_a_task_has_several_batches_while_much_is_pending() -> None:
    source = iter([shard(number, number) for number in range(200)])
    work = TaskQueue(source, {"a": 2, "b": 2}, {"a": 8}, 200)
    sizes = []
    while work.has_pending():
        task = take(work, "a", TWO)
        task.is_done = True
        sizes.append(len(ids(task)))
    # At most eight batches; single ones at the end.
    assert sizes[0] == 16
    assert sizes[-1] == 2
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 200


def test_a_device_that_is_slow_gets_single_batches() -> None:
    work = TaskQueue(iter([shard(number, number) for number in range(99)]), {"b": 2}, {"a": 8}, 99)
    assert ids(take(work, "b", TWO)) == [0, 1]


def test_unreadable_images_count_and_go_with_the_shard_that_they_are_joined_to() -> None:
    source = [shard(0, failed=[0]), shard(1, 1), shard(2, failed=[2]), shard(3, 3)]
    task = take(TaskQueue(iter(source), {"a": 3}))
    assert ids(task) == [1]
    assert [failure.image_id for failure in task.shard.failures] == [0, 2]


def test_a_shard_that_does_not_fit_stays_whole_for_the_next_device() -> None:
    work = TaskQueue(iter([shard(number, number) for number in range(4)]), {"a": 4, "b": 2})
    assert work.take("a", TWO, lambda given: given.images.num_rows < 4) is None
    assert ids(take(work, "b", TWO)) == [0, 1]
    assert ids(take(work, "a", TWO)) == [2, 3]


def test_shards_are_joined_to_no_more_bytes_than_one_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = shard(0, 0)
    monkeypatch.setattr(module, "MAX_SHARD_BYTES", 2 * one.images.nbytes)
    work = TaskQueue(iter([shard(number, number) for number in range(4)]), {"a": 4})
    assert [ids(take(work)), ids(take(work))] == [[0, 1], [2, 3]]


@given(
    st.lists(st.integers(0, 5), max_size=12),
    st.dictionaries(st.sampled_from(TWO), st.integers(1, 9)),
    st.randoms(use_true_random=False),
)
def test_however_shards_are_joined_every_image_is_handed_out_once(
    counts: list[int], sizes: dict[str, int], choice: Random
) -> None:
    first = 0
    shards = []
    for number, count in enumerate(counts):
        shards.append(shard(number, *range(first, first + count), failed=[1000 + number]))
        first += count
    work = TaskQueue(iter(shards), sizes)
    found: list[int] = []
    unreadable: list[int] = []
    while work.has_pending():
        device = choice.choice(TWO)
        task = take(work, device, TWO)
        task.is_done = True
        found += ids(task)
        unreadable += [failure.image_id for failure in task.shard.failures]
    assert found == list(range(first))
    assert unreadable == [1000 + number for number in range(len(counts))]


def test_shards_are_handed_out_in_the_order_of_the_source() -> None:
    work = TaskQueue(iter([shard(number, number) for number in range(3)]))
    assert numbers(work) == [0, 1, 2]
    assert work.take("a", ["a"]) is None


def test_a_source_without_shards_leaves_nothing_pending() -> None:
    assert not TaskQueue(iter([])).has_pending()


def test_a_shard_is_read_when_it_is_asked_for() -> None:
    num_read = 0

    def source() -> "list[Shard]":
        nonlocal num_read
        num_read += 1
        return [shard(num_read, num_read)]

    work = TaskQueue(one for _ in range(9) for one in source())
    take(work)
    assert work.has_pending()
    assert work.has_pending()
    assert num_read == 2


def test_a_shard_that_does_not_fit_stays_in_the_queue() -> None:
    work = TaskQueue(iter([shard(0, 1, 2), shard(1, 3)]))
    assert work.take("a", ["a"], lambda one: one.images.num_rows < 2) is None
    assert take(work).shard.number == 0
    assert take(work).shard.number == 1


def test_a_retry_that_does_not_fit_stays_in_the_queue() -> None:
    work = TaskQueue(iter([shard(0, 1, 2), shard(1, 3)]))
    large, small = take(work), take(work)
    work.requeue(large)
    work.requeue(small)
    assert work.take("a", ["a"], lambda one: one.images.num_rows < 2) is small
    assert take(work) is large


def test_new_shards_come_before_those_that_failed() -> None:
    work = TaskQueue(iter([shard(number, number) for number in range(3)]))
    work.fail(take(work), "a", "broken")
    assert [take(work).shard.number for _ in range(3)] == [1, 2, 0]


def test_a_second_try_is_on_a_device_that_has_not_failed() -> None:
    work = TaskQueue(iter([shard(0, 1)]))
    work.fail(take(work, "a", TWO), "a", "broken")
    assert work.take("a", TWO) is None
    assert work.has_pending()
    assert take(work, "b", TWO).shard.number == 0


def test_a_second_try_is_on_the_same_device_where_there_is_no_other() -> None:
    work = TaskQueue(iter([shard(0, 1)]))
    task = take(work, "a", TWO)
    work.fail(task, "a", "broken")
    assert take(work, "a", ["a"]) is task


def test_a_failed_task_goes_only_to_an_idle_device() -> None:
    work = TaskQueue(iter([shard(0, 1), shard(1, 2)]))
    suspect, other = take(work), take(work)
    work.fail(suspect, "a", "broken")
    assert suspect.is_suspect
    work.requeue(other)
    assert take(work, is_idle=False) is other
    assert work.take("a", ["a"], is_idle=False) is None
    assert take(work, is_idle=True) is suspect


def test_a_returned_task_is_not_blamed() -> None:
    work = TaskQueue(iter([shard(0, 1)]))
    task = take(work)
    for _ in range(10):
        work.requeue(task)
        assert take(work, is_idle=False) is task
    assert (task.failed_on, task.is_suspect) == ([], False)


def test_a_task_that_is_returned_twice_is_handed_out_once() -> None:
    work = TaskQueue(iter([shard(0, 1)]))
    task = take(work)
    work.requeue(task)
    work.requeue(task)
    assert take(work) is task
    assert not work.has_pending()


def test_a_copy_of_a_done_task_is_dropped() -> None:
    work = TaskQueue(iter([shard(0, 1)]))
    task = take(work)
    work.requeue(task)
    task.is_done = True
    assert work.take("a", ["a"]) is None
    assert not work.has_pending()


def test_a_done_task_is_neither_returned_nor_failed() -> None:
    work = TaskQueue(iter([shard(0, 1)]))
    task = take(work)
    task.is_done = True
    work.requeue(task)
    assert [work.fail(task, "a", "late") for _ in range(3)] == [()] * 3
    assert not work.has_pending()
    assert task.failed_on == []


def test_a_shard_that_fails_twice_is_split() -> None:
    work = TaskQueue(iter([shard(7, 1, 2, 3)]))
    assert fail_twice(work) == ()
    parts = [take(work) for _ in range(3)]
    assert [ids(part) for part in parts] == [[1], [2], [3]]
    assert [part.shard.images.column("encoded").to_pylist() for part in parts] == [
        [b"jpeg of 1"],
        [b"jpeg of 2"],
        [b"jpeg of 3"],
    ]
    assert {part.shard.number for part in parts} == {7}
    assert all(part.is_suspect and not part.failed_on for part in parts)
    assert not work.has_pending()


def test_a_part_holds_no_more_than_its_image() -> None:
    large = shard(0, *range(1, 101))
    work = TaskQueue(iter([large]))
    fail_twice(work)
    # A slice would keep the buffers of the whole, and travel with them.
    whole = large.images.get_total_buffer_size()
    assert take(work).shard.images.get_total_buffer_size() < whole / 10


def test_failures_and_times_of_a_split_shard_are_handed_out_once() -> None:
    work = TaskQueue(iter([shard(0, 1, 2, 3, failed=[4])]))
    fail_twice(work)
    parts = [take(work).shard for _ in range(3)]
    assert [[f.image_id for f in part.failures] for part in parts] == [[4], [], []]
    assert [part.read_ns for part in parts] == [(10, 20, 30), (), ()]


def test_an_image_that_fails_twice_alone_is_a_failure_with_its_devices_and_reason() -> None:
    work = TaskQueue(iter([shard(0, 1)]))
    assert fail_twice(work, reason="out of memory") == (
        Failure(1, "1.jpg", "failed 2 times, on a and b: out of memory"),
    )
    assert not work.has_pending()


def test_failures_of_a_split_shard_are_reported_when_its_first_image_fails() -> None:
    work = TaskQueue(iter([shard(0, 1, 2, failed=[3])]))
    fail_twice(work)
    first, second = take(work), take(work)
    for part, given_up in ((first, [3, 1]), (second, [2])):
        assert work.fail(part, "a", "broken") == ()
        assert [failure.image_id for failure in work.fail(part, "b", "broken")] == given_up
    assert not work.has_pending()


def test_a_copy_in_flight_of_a_split_shard_changes_nothing() -> None:
    work = TaskQueue(iter([shard(0, 1, 2)]))
    task = take(work, "a", TWO)
    work.requeue(task)
    assert take(work, "b", TWO) is task
    work.fail(task, "a", "late")
    assert take(work, "b", TWO) is task
    work.fail(task, "b", "broken")
    assert work.fail(task, "b", "broken as well") == ()
    work.requeue(task)
    assert [ids(take(work)) for _ in range(2)] == [[1], [2]]
    assert not work.has_pending()


def test_no_more_than_a_few_failed_shards_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_RETRIES", 2)
    work = TaskQueue(iter([shard(number, number) for number in range(9)]))
    for _ in range(3):
        work.fail(take(work, "a", TWO), "a", "broken")
    assert work.take("a", TWO) is None
    retried = take(work, "b", TWO)
    assert retried.shard.number == 0
    retried.is_done = True
    assert take(work, "a", TWO).shard.number == 3


def test_a_shard_that_could_not_be_read_is_not_tried_without_end() -> None:
    work = TaskQueue(iter([shard(0, failed=[1])]))
    failures: list[Failure] = []
    for _ in range(20):
        if work.has_pending():
            failures.extend(work.fail(take(work), "a", "broken"))
    assert [failure.image_id for failure in failures] == [1]


@dataclass
class Run:
    """A run on devices that fail at random, in which copies are handed out at random.

    Attributes:
        work: queue of the run.
        choice: random numbers that decide what happens next.
        devices: devices that are not excluded.
        max_copies: how often a task in flight is given to another device as well.
        in_flight: tasks at devices.
        results: how often each image came.
        failures: how often each image was a final failure.
    """

    work: TaskQueue
    choice: Random
    devices: list[str]
    max_copies: int
    in_flight: list[tuple[str, Task]] = field(default_factory=list)
    results: Counter[int] = field(default_factory=Counter)
    failures: Counter[int] = field(default_factory=Counter)

    def play(self, max_steps: int) -> None:
        for _ in range(max_steps):
            if not self.in_flight and not self.work.has_pending():
                return
            if not self._dispatch():
                assert self.in_flight, "there is work, every device is idle, and none gets any"
                self._finish()
        pytest.fail("the run does not end")

    def _dispatch(self) -> bool:
        if self.in_flight and self.choice.random() < 0.5:
            return False
        for device in self.choice.sample(self.devices, len(self.devices)):
            idle = all(name != device for name, _ in self.in_flight)
            task = self.work.take(device, self.devices, self._fits, is_idle=idle)
            if task:
                assert not task.is_done
                self.in_flight.append((device, task))
                return True
        return False

    def _fits(self, _: Shard) -> bool:
        return not self.in_flight or self.choice.random() < 0.7

    def _finish(self) -> None:
        device, task = self.in_flight.pop(self.choice.randrange(len(self.in_flight)))
        outcome = self.choice.random()
        if outcome < 0.2 and self.max_copies:
            self.max_copies -= 1
            self.in_flight.append((device, task))
            self.work.requeue(task)
        elif outcome < 0.3 and len(self.devices) > 1 and device in self.devices:
            self.devices.remove(device)
            for name, lost in [(device, task), *self.in_flight]:
                if name == device:
                    self.work.requeue(lost)
            self.in_flight = [one for one in self.in_flight if one[0] != device]
        elif outcome < 0.45:
            refused = [
                Failure(i, "", "unreadable") for i in ids(task) if self.choice.random() < 0.5
            ]
            if not task.is_done:
                self.results.update({*ids(task)} - {failure.image_id for failure in refused})
                self.failures.update(failure.image_id for failure in task.shard.failures)
            given_up = self.work.settle(task, device, refused, self.devices)
            self.failures.update(failure.image_id for failure in given_up)
        elif outcome < 0.65:
            given_up = self.work.fail(task, device, "broken")
            self.failures.update(failure.image_id for failure in given_up)
        else:
            task.is_done = True
            self.results.update(ids(task))
            self.failures.update(failure.image_id for failure in task.shard.failures)


LAYOUTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=8).map(
    # A shard without images has nothing that a device can fail with.
    lambda sizes: [(max(images, 1), unreadable) for images, unreadable in sizes]
)


def shards_of(layout: list[tuple[int, int]]) -> list[Shard]:
    """Returns shards with so many images and unreadable ones, counted from 0 throughout."""
    starts = [0]
    for sizes in layout:
        starts.append(starts[-1] + sum(sizes))
    return [
        shard(number, *range(start, start + sizes[0]), failed=range(start + sizes[0], end))
        for number, (sizes, (start, end)) in enumerate(zip(layout, pairwise(starts), strict=True))
    ]


def play(layout: list[tuple[int, int]], num_devices: int, choice: Random, max_copies: int) -> Run:
    """Returns a run that has been played to its end."""
    devices = [f"cpu:{number}" for number in range(num_devices)]
    run = Run(TaskQueue(iter(shards_of(layout))), choice, devices, max_copies=max_copies)
    run.play(max_steps=1000)
    return run


@given(LAYOUTS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_image_ends_once_whatever_fails(
    layout: list[tuple[int, int]], num_devices: int, choice: Random
) -> None:
    run = play(layout, num_devices, choice, max_copies=0)
    assert run.results + run.failures == Counter(range(sum(map(sum, layout))))


@given(LAYOUTS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_no_image_is_lost_between_copies(
    layout: list[tuple[int, int]], num_devices: int, choice: Random
) -> None:
    run = play(layout, num_devices, choice, max_copies=9)
    assert {*run.results, *run.failures} == {*range(sum(map(sum, layout)))}


class PoisonedEngine(InlineEngine):
    """One device, which some images kill."""

    def __init__(self, poisonous: set[int]) -> None:
        super().__init__(parse_config({"backend": "oracle", "engine": "inline"}))
        self._devices = [_Device("cpu:0", None, Health(1.0))]  # type: ignore[arg-type]
        self._poisonous = poisonous

    def _process(self, shard: Shard, device: _Device) -> tuple[WorkerReport, Reduction]:
        del device
        if self._poisonous & {*ids(shard)}:
            raise RuntimeError("the device was killed")
        done = tuple(ids(shard))
        report = WorkerReport(
            image_ids=done,
            encoded_bytes=(1,) * len(done),
            failures=(),
            durations={},
            digests=("",) * len(done),
        )
        return report, Reduction(image_ids=done, detections=no_detections(), durations={})


def check_that_only_these_fail(poisonous: set[int], shards: list[Shard]) -> None:
    count = sum(len(ids(one)) for one in shards)
    workload = Workload(shards=shards, num_images=count)
    results = [*PoisonedEngine(poisonous).run(workload)]
    failures = [failure.image_id for result in results for failure in result.failures]
    assert sorted(failures) == sorted(poisonous)
    wanted = {image_id for one in shards for image_id in ids(one)} - poisonous
    assert sorted(i for result in results for i in result.image_ids) == sorted(wanted)


@pytest.mark.parametrize("poisonous", [{0}, {5}, {11}, {1, 6}, {4, 5}])
def test_images_that_kill_a_device_are_the_only_ones_without_a_result(poisonous: set[int]) -> None:
    check_that_only_these_fail(poisonous, shards_of([(4, 0)] * 3))


def test_images_that_kill_a_device_now_and_then_do_not_exclude_it() -> None:
    check_that_only_these_fail({1, 21, 41, 61}, shards_of([(4, 0)] * 16))


def test_tasks_that_never_failed_come_before_suspect_ones_so_that_a_broken_device_is_excluded() -> (
    None
):
    """A broken device has all new tasks in its process, and fails with the first one of them."""
    work = TaskQueue(iter([shard(number, number) for number in range(12)]))
    health = Health(floor_s=1.0)
    in_process = [take(work) for _ in range(12)]
    for _ in range(4):
        failed, *others = in_process
        health.fault("broken", is_suspect=failed.is_suspect)
        assert work.fail(failed, "a", "broken") == ()
        for task in others:
            work.requeue(task)
        idle = take(work)
        alone = [] if idle.is_suspect else [take(work, is_idle=False) for _ in others[1:]]
        in_process = [idle, *alone]
    assert health.is_excluded


def test_a_task_that_is_late_on_a_device_is_repeated_on_another_where_there_is_one() -> None:
    work = TaskQueue(iter([shard(0, 0)]))
    task = take(work, "a", TWO)
    work.repeat(task, "a")
    assert work.take("a", TWO) is None
    assert work.take("a", ("a",)) is task
    work.repeat(task, "a")
    assert work.take("b", TWO) is task
