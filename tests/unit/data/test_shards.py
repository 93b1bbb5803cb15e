"""Shards: which images they hold, and the Arrow form of images, maps and detections."""

from pathlib import Path

import numpy as np
import pytest

from distributed_pose.data.shards import (
    ImageMaps,
    image_rows,
    list_shards,
    num_images,
    pack_detections,
    pack_images,
    pack_maps,
    read_shards,
    rows_to_read,
    unpack_detections,
    unpack_images,
    unpack_maps,
)
from distributed_pose.data.sources import FolderImages
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.images import Geometry, ImageRecord


def records(count: int) -> list[ImageRecord]:
    return [ImageRecord(number, f"{number}.jpg", 4, 6) for number in range(count)]


def test_shards_hold_all_images_in_order_and_the_last_may_be_smaller(tmp_path: Path) -> None:
    for record in records(5):
        (tmp_path / record.file_name).write_bytes(bytes([record.image_id]))
    shards = [*read_shards(records(5), FolderImages(tmp_path), 2)]
    rows = [row for shard in shards for row in image_rows(shard.images)]
    assert [shard.images.num_rows for shard in shards] == [2, 2, 1]
    assert [shard.number for shard in shards] == [0, 1, 2]
    assert rows == [(record, bytes([record.image_id])) for record in records(5)]
    assert [len(shard.read_ns) for shard in shards] == [2, 2, 1]


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_shards_that_list_images_by_name_are_sent_as_bytes(size: int) -> None:
    shards = [*list_shards(records(5), size)]
    packed = [pack_images(shard.images) for shard in shards]
    assert all(isinstance(content, bytes) for content in packed)
    rows = [row for content in packed for row in rows_to_read(unpack_images(content))]
    assert rows == [(record, None) for record in records(5)]
    assert sum(num_images(shard) for shard in shards) == 5


def test_shards_with_encoded_images_are_sent_as_record_batches(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"x")
    (shard,) = read_shards(records(1), FolderImages(tmp_path), 1)
    assert unpack_images(pack_images(shard.images)) is shard.images
    assert list(rows_to_read(shard.images)) == [(records(1)[0], b"x")]


def test_a_shard_is_read_on_demand(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"x")
    shards = read_shards(records(2), FolderImages(tmp_path), 1)
    assert next(shards).images.num_rows == 1
    (tmp_path / "1.jpg").write_bytes(b"y")
    assert not next(shards).failures


def test_a_missing_file_is_a_failure_of_its_shard(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    first, second = read_shards(records(3), FolderImages(tmp_path), 2)
    assert [row[0].image_id for row in image_rows(first.images)] == [1]
    assert [failure.image_id for failure in (*first.failures, *second.failures)] == [0, 2]
    assert second.images.num_rows == 0
    assert str(tmp_path / "0.jpg") in first.failures[0].reason
    assert first.failures[0].file_name == "0.jpg"
    assert (len(first.read_ns), len(second.read_ns)) == (1, 0)


def test_a_folder_in_place_of_a_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").mkdir()
    (shard,) = read_shards(records(1), FolderImages(tmp_path), 1)
    assert [failure.image_id for failure in shard.failures] == [0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_maps_are_unpacked_unchanged(dtype: type[np.floating]) -> None:
    generator = np.random.default_rng(0)
    geometries = (Geometry(40, 60, 1, 2, 3, 4), Geometry(41, 61, 0, 0, 0, 0))
    heatmaps = generator.random((2, 19, 3, 5)).astype(dtype)
    pafs = generator.random((2, 38, 3, 5)).astype(dtype)
    back = unpack_maps(pack_maps(ImageMaps((7, 9), geometries, heatmaps, pafs)))
    assert back.image_ids == (7, 9)
    assert back.geometries == geometries
    assert back.heatmaps_NKHW.dtype == dtype
    np.testing.assert_array_equal(back.heatmaps_NKHW, heatmaps)
    np.testing.assert_array_equal(back.pafs_NPHW, pafs)


def test_detections_are_unpacked_unchanged() -> None:
    keypoints = np.arange(102.0).reshape(2, 51)
    poses = Poses(keypoints, np.array([0.5, 0.25]))
    rows = unpack_detections(pack_detections(np.array([4, 6]), poses))
    assert [(row["image_id"], row["score"]) for row in rows] == [(4, 0.5), (6, 0.25)]
    assert [row["keypoints"] for row in rows] == keypoints.tolist()


def test_an_empty_list_of_detections_is_unpacked_unchanged() -> None:
    nobody = Poses(np.zeros((0, 51)), np.zeros(0))
    assert unpack_detections(pack_detections(np.empty(0, np.int64), nobody)) == []
