"""A worker decodes, preprocesses and infers images, and failures stay with their images."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from distributed_pose import ExecutionError, SetupError
from distributed_pose.backends.base import Backend, BackendOptions, InputBatch, NetworkOutput
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.backends.registry import resolve_backend
from distributed_pose.data.shards import (
    ImageMaps,
    Shard,
    image_records,
    list_shards,
    pack_maps,
    read_shards,
    unpack_detections,
    unpack_maps,
)
from distributed_pose.data.sources import FolderImages
from distributed_pose.devices.planning import Node, plan_devices
from distributed_pose.engine.deployment import plan_deployment
from distributed_pose.engine.device_maps import image_maps
from distributed_pose.engine.host_stages import HostStages
from distributed_pose.engine.reducer import ForeignMapsError, Reducer
from distributed_pose.engine.worker import Worker
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.locations import Location
from distributed_pose.model.compile import compile_model
from distributed_pose.records.devices import ImagesToRead, WorkerSpec
from distributed_pose.records.images import ImageRecord
from distributed_pose.run.inputs import read_inputs
from tests.conftest import Dataset
from tests.tiny_models import save_constant_model


def worker_of(dataset: Dataset, **values: object) -> tuple[Worker, WorkerSpec]:
    config = dataset.config(**values)
    inputs = read_inputs(config)
    (plan,) = plan_devices(("cpu",), [Node("", "", 1)])
    deployment = plan_deployment(
        inputs.selection, plan, resolve_backend(config.backend, plan.kind, "auto")
    )
    model = compile_model(inputs.model, deployment.order)
    return Worker(deployment.spec, model.content), deployment.spec


def shard_of(dataset: Dataset, count: int = 12) -> Shard:
    images = read_inputs(dataset.config()).index.images[:count]
    (shard,) = read_shards(images, FolderImages(dataset.images), count)
    return shard


def test_images_of_different_shapes_go_in_batches_of_equal_shape(people: Dataset) -> None:
    worker, _ = worker_of(people, profile="upstream", batch_size=12)
    worker.start()
    shard = shard_of(people)
    maps, report = worker.infer(shard.images)
    worker.close()
    shapes = [unpack_maps(batch).heatmaps_NKHW.shape for batch in maps]
    assert len({shape[2:] for shape in shapes}) == len(shapes) > 1
    assert sum(shape[0] for shape in shapes) == 12
    assert sorted(report.image_ids) == shard.images.column("image_id").to_pylist()
    assert (
        len(Reducer(HostStages(coco_body())).reduce(maps, report.image_ids).durations["peaks"])
        == 12
    )


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (8, [5])])
def test_a_batch_is_at_most_as_large_as_asked_for(
    people: Dataset, batch_size: int, sizes: list[int]
) -> None:
    worker, _ = worker_of(people, batch_size=batch_size)
    worker.start()
    maps, report = worker.infer(shard_of(people, 5).images)
    worker.close()
    assert [batch.num_rows for batch in maps] == sizes
    assert {stage: len(times) for stage, times in report.durations.items()} == {
        "decode_jpeg": 5,
        "preprocess": 5,
        **dict.fromkeys(("copy_in", "compute", "copy_out", "check"), len(sizes)),
    }


def test_images_that_cannot_be_decoded_are_failures_and_the_others_have_maps(
    people: Dataset, tmp_path: Path
) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    contents = {1: jpeg[:-2], 2: jpeg, 3: b"", 4: b"no picture"}
    records = [ImageRecord(number, f"{number}.jpg", 40, 60) for number in contents]
    for record in records:
        (tmp_path / record.file_name).write_bytes(contents[record.image_id])
    (shard,) = read_shards(records, FolderImages(tmp_path), 4)
    worker, _ = worker_of(people)
    worker.start()
    maps, report = worker.infer(shard.images)
    none, no_report = worker.infer(shard.images.slice(2))
    worker.close()
    assert report.image_ids == (2,)
    assert [unpack_maps(batch).image_ids for batch in maps] == [(2,)]
    assert [(f.image_id, f.file_name) for f in report.failures] == [
        (1, "1.jpg"),
        (3, "3.jpg"),
        (4, "4.jpg"),
    ]
    assert (none, no_report.image_ids, len(no_report.failures)) == ([], (), 2)
    assert unpack_detections(Reducer(HostStages(coco_body())).reduce(none, ()).detections) == []


def test_a_worker_reads_images_that_are_only_listed(people: Dataset) -> None:
    worker, spec = worker_of(people, batch_size=2)
    shard = shard_of(people, 5)
    (listed,) = list_shards(image_records(shard.images), 5)
    reader = Worker(replace(spec, images=ImagesToRead(Location(people.images))), worker._model)
    for one in (worker, reader):
        one.start()
    sent, sent_report = worker.infer_and_group(shard.images)
    read, read_report = reader.infer_and_group(listed.images)
    assert read.detections == sent.detections
    assert read_report.encoded_bytes == sent_report.encoded_bytes
    assert len(read_report.durations["read"]) == 5
    assert "read" not in sent_report.durations
    for one in (worker, reader):
        one.close()


def test_an_image_that_a_worker_cannot_read_is_a_failure(people: Dataset, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(people.images, images)
    (listed,) = list_shards(image_records(shard_of(people, 3).images), 3)
    gone = listed.images.column("file_name")[1].as_py()
    (images / gone).unlink()
    worker, spec = worker_of(people)
    reader = Worker(replace(spec, images=ImagesToRead(Location(images))), worker._model)
    reader.start()
    _, report = reader.infer_and_group(listed.images)
    reader.close()
    worker.close()
    (failure,) = report.failures
    assert failure.file_name == gone
    assert f"cannot read {images / gone}" in failure.reason
    assert len(report.image_ids) == 2


def test_a_worker_that_does_not_see_the_images_fails_at_its_start(people: Dataset) -> None:
    worker, spec = worker_of(people)
    reader = Worker(replace(spec, images=ImagesToRead(Location("/nowhere"))), worker._model)
    with pytest.raises(SetupError, match=r"device cpu:0.*/nowhere is not a folder"):
        reader.start()
    reader.close()
    worker.close()


def test_a_worker_whose_node_lacks_an_image_of_the_driver_fails_at_its_start(
    people: Dataset, tmp_path: Path
) -> None:
    worker, spec = worker_of(people)
    plan = replace(spec.plan, node="10.0.0.2")
    images = ImagesToRead(Location(tmp_path), "first.jpg")
    reader = Worker(replace(spec, plan=plan, images=images), worker._model)
    with pytest.raises(
        SetupError, match=r"device cpu:0\] on node 10.0.0.2: cannot read .*/first.jpg.*all nodes"
    ):
        reader.start()
    reader.close()
    worker.close()


@pytest.mark.parametrize(("maps_dtype", "dtype"), [("f32", np.float32), ("f16", np.float16)])
def test_maps_travel_as_the_type_asked_for_and_are_decoded_in_float32(
    people: Dataset, maps_dtype: str, dtype: type[np.floating]
) -> None:
    worker, _ = worker_of(people, maps_dtype=maps_dtype)
    worker.start()
    (packed,), _ = worker.infer(shard_of(people, 4).images)
    worker.close()
    maps = unpack_maps(packed)
    assert {maps.heatmaps_NKHW.dtype, maps.pafs_NPHW.dtype} == {np.dtype(dtype)}
    heatmaps, pafs = (a.astype(np.float32) for a in (maps.heatmaps_NKHW, maps.pafs_NPHW))
    exact = pack_maps(ImageMaps(maps.image_ids, maps.geometries, heatmaps, pafs))
    found, wanted = (
        Reducer(HostStages(coco_body())).reduce([batch], maps.image_ids).detections
        for batch in (packed, exact)
    )
    assert unpack_detections(found)
    assert found == wanted


def test_an_answer_that_is_not_finite_fails_its_own_shard_and_names_the_device(
    people: Dataset,
) -> None:
    plain, spec = worker_of(people, batch_size=2)
    shards = [shard_of(people).images.slice(start, 4) for start in (0, 4, 8)]
    bad = shards[1].column("image_id")[3].as_py()

    class Overflowing(OracleBackend):
        def run(self, batch: InputBatch) -> NetworkOutput:
            maps = super().run(batch)
            if bad in batch.image_ids:
                maps.pafs_NPHW[batch.image_ids.index(bad)] = np.inf
            return maps

    class Faulty(Worker):
        def _open_backend(self) -> Backend:
            return Overflowing(self._model, BackendOptions())

    faulty = Faulty(spec, plain._model)
    for worker in (plain, faulty):
        worker.start()
    with ThreadPoolExecutor(3) as threads:
        first, second, third = [threads.submit(faulty.infer_and_group, one) for one in shards]
    with pytest.raises(ExecutionError, match=r"device cpu:0.*not finite") as caught:
        second.result()
    assert bad in caught.value.image_ids
    for answer, shard in ((first, shards[0]), (third, shards[2])):
        assert answer.result()[0].detections == plain.infer_and_group(shard)[0].detections
    for worker in (plain, faulty):
        worker.close()


def test_halves_that_a_model_answers_travel_as_they_are(people: Dataset) -> None:
    worker, _ = worker_of(people)
    (batch,) = worker._trials().batches(2)
    generator = np.random.default_rng(0)
    halves = NetworkOutput(*(generator.random((2, n, 46, 80)).astype(np.float16) for n in (19, 38)))
    for maps_dtype in ("f32", "f16"):
        packed = pack_maps(image_maps(batch, halves, maps_dtype))
        found = unpack_maps(packed)
        np.testing.assert_array_equal(found.heatmaps_NKHW, halves.heatmaps_NKHW)
        np.testing.assert_array_equal(found.pafs_NPHW, halves.pafs_NPHW)
        assert {found.heatmaps_NKHW.dtype, found.pafs_NPHW.dtype} == {np.dtype(np.float16)}
    worker.close()


def test_shards_of_several_threads_do_not_mix(people: Dataset) -> None:
    worker, _ = worker_of(people)
    worker.start()
    shards = [shard_of(people).images.slice(start, 3) for start in range(0, 12, 3)]
    alone = [worker.infer(shard)[0] for shard in shards]
    with ThreadPoolExecutor(4) as threads:
        together = [maps for maps, _ in threads.map(worker.infer, shards)]
    worker.close()
    assert together == alone


def test_a_reducer_answers_the_same_each_time(people: Dataset) -> None:
    worker, _ = worker_of(people)
    worker.start()
    maps, report = worker.infer(shard_of(people, 4).images)
    worker.close()
    reducer = Reducer(HostStages(coco_body()))
    first, second = (reducer.reduce(maps, report.image_ids) for _ in range(2))
    assert first.image_ids == report.image_ids
    assert first.detections == second.detections
    assert [len(ns) for ns in first.durations.values()] == [4, 4, 4]
    assert {row["image_id"] for row in unpack_detections(first.detections)} <= {
        image_id for batch in maps for image_id in unpack_maps(batch).image_ids
    }


def test_a_worker_warms_up_before_it_is_ready_and_can_be_closed_twice(people: Dataset) -> None:
    worker, spec = worker_of(people)
    ready = worker.start()
    assert (ready.plan, ready.backend, ready.precision) == (spec.plan, "oracle", "f32")
    assert (ready.batch_size,) == (ready.shard_size,) == spec.batch_sizes
    assert ready.warmup_ns > 0
    worker.close()
    worker.close()


def test_a_sweep_at_the_start_finds_the_batch_size(people: Dataset) -> None:
    worker, spec = worker_of(people, batch_size="auto")
    ready = worker.start()
    sweep = worker.sweep(2, least_s=0.0)
    worker.close()
    assert spec.batch_sizes == (1, 2, 4, 8, 16, 32)
    assert ready.batch_size == ready.shard_size
    assert ready.batch_size in spec.batch_sizes
    assert len(sweep.times) == 3
    assert 0 < min(sweep.compute_ns) < sum(sweep.compute_ns) < sweep.wall_ns


def test_a_process_of_a_device_that_was_swept_before_is_not_swept_again(people: Dataset) -> None:
    first, spec = worker_of(people, batch_size="auto")
    again = Worker(replace(spec, best_batch_size=16), first._model)
    ready = again.start()
    again.close()
    first.close()
    assert (ready.batch_size, ready.shard_size) == (16, 16)


def test_batches_that_a_device_cannot_take_are_not_its_best(
    people: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_constant_model(tmp_path / "model.onnx", most=4)
    worker, _ = worker_of(people, backend="onnxruntime", model={"path": path}, batch_size="auto")
    ready = worker.start()
    worker.close()
    assert ready.shard_size in {1, 2, 4}
    assert "batches of 8" in caplog.text


def test_a_worker_that_is_not_started_is_an_error(people: Dataset) -> None:
    worker, _ = worker_of(people)
    with pytest.raises(SetupError, match=r"device cpu:0.*not started"):
        worker.infer(shard_of(people, 1).images)
    worker.close()


def test_a_model_that_cannot_be_used_is_an_error_that_names_the_device(
    people: Dataset, tmp_path: Path
) -> None:
    path = save_constant_model(tmp_path / "model.onnx", np.nan)
    worker, _ = worker_of(people, backend="onnxruntime", model={"path": path})
    with pytest.raises(SetupError, match=r"device cpu:0.*not finite"):
        worker.start()
    worker.close()


@pytest.mark.parametrize("profile", ["modelzoo", "uint8"])
@pytest.mark.parametrize(("mixing", "batch_size"), [(False, 4), (True, 1)])
def test_a_model_that_mixes_the_images_of_a_batch_runs_them_one_by_one(
    people: Dataset, tmp_path: Path, profile: str, *, mixing: bool, batch_size: int
) -> None:
    path = save_constant_model(tmp_path / "model.onnx", mixing=mixing)
    worker, _ = worker_of(
        people, backend="onnxruntime", model={"path": path}, batch_size=4, profile=profile
    )
    assert worker.start().batch_size == batch_size
    maps, _ = worker.infer(shard_of(people, 4).images)
    worker.close()
    assert {batch.num_rows for batch in maps} == {batch_size}


def test_a_reducer_refuses_maps_of_other_images(people: Dataset) -> None:
    worker, _ = worker_of(people)
    worker.start()
    maps, report = worker.infer(shard_of(people, 4).images)
    worker.close()
    with pytest.raises(ForeignMapsError, match="instead of"):
        Reducer(HostStages(coco_body())).reduce(maps, report.image_ids[1:])
