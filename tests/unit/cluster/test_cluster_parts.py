import numpy as np
import pytest

from distributed_pose import ExecutionError, SetupError
from distributed_pose.cluster.devices import Node, plan_devices
from distributed_pose.cluster.engine import worker_specs
from distributed_pose.cluster.ledger import Ledger
from distributed_pose.cluster.reducer import Reducer
from distributed_pose.cluster.worker import Worker, WorkerSpec
from distributed_pose.data.shards import pack_detections, read_shards, unpack_maps
from distributed_pose.evaluation import read_inputs
from distributed_pose.pose.assemble import Poses
from distributed_pose.records import Failure, ImageRecord, ShardResult
from tests.conftest import Dataset
from tests.tiny_models import save_constant_model

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


IMAGES = [ImageRecord(number, f"{number}.jpg", 4, 6) for number in (1, 2, 3)]


def result(
    *image_ids: int, score: float = 1.0, x: float = 0.0, device: str = "cpu:0"
) -> ShardResult:
    poses = Poses(np.full((1, 51), x), np.array([score]))
    detections = pack_detections([(image_id, poses) for image_id in image_ids])
    return ShardResult(device, image_ids, detections, (), {"inference": (5,)})


def test_an_image_is_counted_once_however_often_it_comes() -> None:
    ledger = Ledger(IMAGES)
    assert ledger.accept(result(1, 2)) == 2
    assert ledger.accept(result(2, 3, score=0.5, device="cpu:1")) == 1
    assert ledger.accept(result(1, 2, 3)) == 0
    assert [(d["image_id"], d["score"]) for d in ledger.detections] == [(1, 1), (2, 1), (3, 0.5)]
    assert (ledger.num_images("cpu:0"), ledger.num_images("cpu:1")) == (2, 1)
    assert not ledger.failures


def test_a_result_of_a_failed_image_does_not_count_twice() -> None:
    ledger = Ledger(IMAGES)
    failure = Failure(1, "1.jpg", "unreadable")
    assert ledger.accept(ShardResult("cpu:0", (), pack_detections([]), (failure, failure))) == 1
    assert ledger.accept(result(1)) == 0
    assert not ledger.detections


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
    ledger.accept(ShardResult("cpu:0", (1,), pack_detections([(1, tied)])))
    assert [d["keypoints"][0] for d in ledger.detections] == [3.0, 7.0]


def worker_of(dataset: Dataset, **values: object) -> tuple[Worker, WorkerSpec]:
    config = dataset.config(**values)
    inputs = read_inputs(config)
    (spec,) = worker_specs(config, inputs.backend, plan_devices(("cpu",), [Node("", "", 1)]))
    return Worker(spec, inputs.model.content), spec


def test_images_of_different_shapes_go_in_batches_of_equal_shape(people: Dataset) -> None:
    config = people.config(profile="upstream")
    worker, _ = worker_of(people, profile="upstream", batch_size=12)
    worker.start()
    (shard,) = read_shards(read_inputs(config).index.images, people.images, 12)
    maps, report = worker.process(shard.images)
    worker.close()
    shapes = [unpack_maps(batch).heatmaps_NKHW.shape for batch in maps]
    assert len({shape[2:] for shape in shapes}) == len(shapes) > 1
    assert sum(shape[0] for shape in shapes) == 12
    assert sorted(report.image_ids) == [row.image_id for row in read_inputs(config).index.images]
    assert len(Reducer().reduce(maps).group_ns) == 12


def test_a_worker_warms_up_before_it_is_ready_and_can_be_closed_twice(people: Dataset) -> None:
    worker, spec = worker_of(people)
    ready = worker.start()
    assert (ready.plan, ready.backend, ready.precision) == (spec.plan, "oracle", "f32")
    assert ready.warmup_ns > 0
    worker.close()
    worker.close()


def test_a_worker_that_is_not_started_says_so(people: Dataset) -> None:
    worker, _ = worker_of(people)
    (shard,) = read_shards(
        read_inputs(people.config(data={"limit": 1})).index.images, people.images, 1
    )
    with pytest.raises(SetupError, match="not started"):
        worker.process(shard.images)
    worker.close()


@pytest.mark.parametrize(("mixing", "batch_size"), [(False, 4), (True, 1)])
def test_a_model_that_mixes_the_images_of_a_batch_runs_them_one_by_one(
    people: Dataset, tmp_path_factory: pytest.TempPathFactory, *, mixing: bool, batch_size: int
) -> None:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    save_constant_model(path, mixing=mixing)
    worker, _ = worker_of(people, backend="onnxruntime", model={"path": path}, batch_size=4)
    assert worker.start().batch_size == batch_size
    worker.close()
