import numpy as np
import pytest

from distributed_pose import ExecutionError
from distributed_pose.cluster.devices import Node, plan_devices
from distributed_pose.cluster.ledger import Ledger
from distributed_pose.data.shards import pack_detections
from distributed_pose.pose.assemble import Poses
from distributed_pose.records import Failure, ImageRecord, ShardResult

NODES = [Node("10.0.0.1", "a", 4), Node("10.0.0.2", "b", 1)]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (("auto",), [("cpu:0", "a", 4), ("cpu:1", "b", 1)]),
        (("cpu",), [("cpu:0", "a", 4)]),
        (
            ("cpu:4",),
            [("cpu:0", "a", 2), ("cpu:1", "b", 0.5), ("cpu:2", "a", 2), ("cpu:3", "b", 0.5)],
        ),
        (("cpu", "cpu:2"), [("cpu:0", "a", 2), ("cpu:1", "b", 1), ("cpu:2", "a", 2)]),
    ],
)
def test_workers_are_dealt_over_the_nodes_and_share_their_cpus(
    requests: tuple[str, ...], expected: list[tuple[str, str, float]]
) -> None:
    plans = plan_devices(requests, NODES)
    assert [(plan.name, plan.node_id, plan.cpus) for plan in plans] == expected
    assert all(plan.threads == max(1, int(plan.cpus)) for plan in plans)


NOTHING = pack_detections(np.empty(0, np.int64), Poses(np.zeros((0, 51)), np.zeros(0)))

IMAGES = [ImageRecord(number, f"{number}.jpg", 4, 6) for number in (1, 2, 3)]


def result(
    *image_ids: int, score: float = 1.0, x: float = 0.0, device: str = "cpu:0"
) -> ShardResult:
    number = len(image_ids)
    poses = Poses(np.full((number, 51), x), np.full(number, score))
    detections = pack_detections(np.array(image_ids), poses)
    return ShardResult(device, image_ids, detections, (), {"inference": (5,)})


def test_an_image_is_counted_once_however_often_it_comes() -> None:
    ledger = Ledger(IMAGES)
    assert ledger.accept(result(1, 2)) == 2
    assert ledger.accept(result(2, 3, score=0.5, device="cpu:1")) == 1
    assert ledger.accept(result(1, 2, 3)) == 0
    assert [(d["image_id"], d["score"]) for d in ledger.detections] == [(1, 1), (2, 1), (3, 0.5)]
    assert (ledger.num_images("cpu:0"), ledger.num_images("cpu:1")) == (2, 1)
    assert not ledger.failures


def test_times_are_kept_by_stage_and_by_device() -> None:
    ledger = Ledger(IMAGES)
    for part in (result(1), result(2, device="cpu:1"), result(3)):
        ledger.accept(part)
    assert ledger.durations["inference"] == [5, 5, 5]
    assert (ledger.inference_ns("cpu:0"), ledger.inference_ns("cpu:1")) == (10, 5)
    assert ledger.inference_ns("cpu:2") == 0


def test_an_image_with_nobody_in_it_has_a_result() -> None:
    ledger = Ledger(IMAGES[:1])
    assert ledger.accept(ShardResult("cpu:0", (1,), NOTHING)) == 1
    assert not ledger.failures
    assert not ledger.detections


def test_a_result_of_a_failed_image_does_not_count_twice() -> None:
    ledger = Ledger(IMAGES)
    failure = Failure(1, "1.jpg", "unreadable")
    assert ledger.accept(ShardResult("cpu:0", (), NOTHING, (failure, failure))) == 1
    assert ledger.accept(result(1)) == 0
    assert not ledger.detections


def test_a_failure_of_an_image_that_has_a_result_does_not_count() -> None:
    ledger = Ledger(IMAGES[:1])
    ledger.accept(result(1))
    failure = Failure(1, "1.jpg", "unreadable")
    assert ledger.accept(ShardResult("cpu:1", (), NOTHING, (failure,))) == 0
    assert not ledger.failures


def test_images_that_never_came_back_are_failures() -> None:
    ledger = Ledger(IMAGES)
    ledger.accept(result(2))
    assert [(f.image_id, f.reason) for f in ledger.failures] == [
        (1, "no result came back"),
        (3, "no result came back"),
    ]


def test_a_result_of_another_dataset_is_an_error() -> None:
    with pytest.raises(ExecutionError, match=r"cpu:0.*\[99\]"):
        Ledger(IMAGES).accept(result(1, 99))


def test_detections_have_one_order_whoever_came_first() -> None:
    parts = [result(3), result(1, score=0.5), result(2, x=4.0)]
    forward, backward = Ledger(IMAGES), Ledger(IMAGES)
    for part in parts:
        forward.accept(part)
    for part in parts[::-1]:
        backward.accept(part)
    assert forward.detections == backward.detections
    tied = Poses(np.stack([np.full(51, 7.0), np.full(51, 3.0)]), np.array([1.0, 1.0]))
    ledger = Ledger(IMAGES)
    ledger.accept(ShardResult("cpu:0", (1,), pack_detections(np.array([1, 1]), tied)))
    assert [d["keypoints"][0] for d in ledger.detections] == [3.0, 7.0]
    assert {d["category_id"] for d in ledger.detections} == {1}


def test_the_better_detection_of_an_image_comes_first() -> None:
    ledger = Ledger(IMAGES)
    pair = Poses(np.stack([np.full(51, 3.0), np.full(51, 7.0)]), np.array([0.5, 1.0]))
    ledger.accept(ShardResult("cpu:0", (1,), pack_detections(np.array([1, 1]), pair)))
    assert [d["score"] for d in ledger.detections] == [1.0, 0.5]
