"""Images that some devices cannot read or decode, and others can."""

import pytest

from distributed_pose.config.loading import parse_config
from distributed_pose.data.shards import Shard, list_shards, no_detections
from distributed_pose.engine.base import Workload
from distributed_pose.engine.health import Health
from distributed_pose.engine.inline import InlineEngine, _Device
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.task_queue import Task, TaskQueue
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.records.images import Failure, ImageRecord
from distributed_pose.records.shards import ShardResult

BROKEN = "no such file"

BOTH = ("a", "b")


def images(count: int) -> list[ImageRecord]:
    return [ImageRecord(number, f"{number}.jpg", 4, 6) for number in range(count)]


def ids(shard: Shard) -> list[int]:
    found: list[int] = shard.images.column("image_id").to_pylist()
    return found


def refused(*image_ids: int, reason: str = BROKEN) -> list[Failure]:
    return [Failure(number, f"{number}.jpg", reason) for number in image_ids]


def work_on(count: int, size: int, nodes: dict[str, str] | None = None) -> TaskQueue:
    return TaskQueue(list_shards(images(count), size), nodes=nodes)


def take(work: TaskQueue, device: str, usable: tuple[str, ...] = BOTH) -> Task:
    task = work.take(device, usable)
    assert task is not None
    return task


class ShortSightedEngine(InlineEngine):
    """Devices, each of which cannot read some images."""

    def __init__(self, unseen: dict[str, set[int]]) -> None:
        super().__init__(parse_config({"backend": "oracle", "engine": "inline"}))
        self._devices = [_Device(name, None, Health(1.0)) for name in unseen]  # type: ignore[arg-type]
        self._unseen = unseen
        self.asked: dict[str, list[int]] = {name: [] for name in unseen}

    def _process(self, shard: Shard, device: _Device) -> tuple[WorkerReport, Reduction]:
        self.asked[device.name] += ids(shard)
        failures = tuple(refused(*[i for i in ids(shard) if i in self._unseen[device.name]]))
        done = tuple(i for i in ids(shard) if i not in self._unseen[device.name])
        report = WorkerReport(
            image_ids=done,
            encoded_bytes=(1,) * len(done),
            failures=failures,
            durations={},
            digests=("",) * len(done),
        )
        return report, Reduction(image_ids=done, detections=no_detections(), durations={})


def workload(count: int, size: int) -> Workload:
    return Workload(shards=list_shards(images(count), size), num_images=count)


def settled(results: list[ShardResult]) -> tuple[list[int], list[Failure]]:
    """Returns the images with a result and the failures, as the ledger counts them."""
    done = sorted(image_id for result in results for image_id in result.image_ids)
    failures = [failure for result in results for failure in result.failures]
    return done, [failure for failure in failures if failure.image_id not in done]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_broken_images_fail_once_with_their_own_reason_and_no_device_is_blamed(
    count: int, size: int
) -> None:
    broken = {3, 4, 21}
    engine = ShortSightedEngine({f"cpu:{number}": broken for number in range(count)})
    done, failures = settled([*engine.run(workload(24, size))])
    assert done == sorted({*range(24)} - broken)
    assert sorted(failures, key=lambda failure: failure.image_id) == refused(3, 4, 21)
    assert not engine.faults().reasons


@pytest.mark.parametrize("size", [1, 4])
def test_a_device_that_sees_no_image_costs_no_result_and_is_excluded(size: int) -> None:
    engine = ShortSightedEngine({"cpu:0": set(), "cpu:1": {*range(200)}, "cpu:2": {2}})
    done, failures = settled([*engine.run(workload(200, size))])
    assert (done, failures) == ([*range(200)], [])
    faults = engine.faults()
    assert faults.taken_out == ("cpu:1",)
    assert "could not read or decode" in faults.reasons["cpu:1"][-1]
    assert len(engine.asked["cpu:1"]) <= 5 * size


def test_images_that_failed_on_two_blind_devices_are_tried_again_when_one_is_excluded() -> None:
    # On the last device alone all images are seen.
    engine = ShortSightedEngine({"a": {*range(99)}, "b": {*range(99)}, "c": set()})
    done, _ = settled([*engine.run(workload(99, 1))])
    assert done == [*range(99)]
    assert engine.faults().taken_out == ("a", "b")


def test_devices_that_lose_sight_of_the_images_on_the_way_cost_none() -> None:
    late = {*range(100, 400)}
    engine = ShortSightedEngine({"a": late, "b": late, "c": {250}})
    done, failures = settled([*engine.run(workload(400, 2))])
    assert done == sorted({*range(400)} - {250})
    assert [failure.image_id for failure in failures] == [250]
    assert engine.faults().taken_out == ("a", "b")


def test_devices_that_see_half_of_the_images_each_finish_together() -> None:
    engine = ShortSightedEngine({"a": {*range(0, 40, 2)}, "b": {*range(1, 40, 2)}})
    done, failures = settled([*engine.run(workload(40, 4))])
    assert (done, failures) == ([*range(40)], [])


def test_the_only_device_tries_again_and_is_never_excluded() -> None:
    engine = ShortSightedEngine({"cpu:0": {*range(8)}})
    done, failures = settled([*engine.run(workload(12, 2))])
    assert done == [8, 9, 10, 11]
    assert len(failures) == 8
    assert sorted(engine.asked["cpu:0"]) == sorted([*range(12), *range(8)])


def test_images_that_a_device_cannot_read_are_tried_on_another_node_where_there_is_one() -> None:
    work = work_on(1, 1, {"a": "first", "b": "first", "c": "second"})
    usable = ("a", "b", "c")
    assert work.settle(take(work, "a", usable), "a", refused(0), BOTH) == ()
    assert work.take("b", usable) is None
    assert ids(take(work, "c", usable).shard) == [0]


def test_the_images_that_failed_are_tried_again_without_the_others() -> None:
    work = work_on(4, 4)
    assert work.settle(take(work, "a"), "a", refused(1, 2), BOTH) == ()
    assert ids(take(work, "b").shard) == [1, 2]


def test_both_of_two_reasons_are_reported() -> None:
    work = work_on(1, 1)
    work.settle(take(work, "a"), "a", refused(0, reason="no such file"), BOTH)
    (failure,) = work.settle(take(work, "b"), "b", refused(0, reason="not a JPEG"), BOTH)
    assert failure.reason == "on a: no such file; on b: not a JPEG"


def test_the_second_answer_of_a_task_that_two_devices_had_changes_nothing() -> None:
    work = work_on(2, 2)
    task = take(work, "a")
    work.requeue(task)
    assert take(work, "b") is task
    assert work.settle(task, "a", refused(0), BOTH) == ()
    assert work.settle(task, "b", refused(0, 1), BOTH) == ()
    assert ids(take(work, "b").shard) == [0]
    assert not work.has_pending()


def test_a_device_that_cannot_read_an_image_now_and_then_stays() -> None:
    flaky = {*range(0, 400, 20)}
    engine = ShortSightedEngine({"a": flaky, "b": set()})
    done, failures = settled([*engine.run(workload(400, 4))])
    assert (done, failures) == ([*range(400)], [])
    faults = engine.faults()
    assert faults.taken_out == ()
    assert "at another try it was evaluated" in faults.reasons["a"][0]
    assert len(faults.reasons["a"]) <= 4
