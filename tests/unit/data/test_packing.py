"""Packing a dataset: what the folder holds afterwards, and when packing is refused."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distributed_pose import ExecutionError, SetupError
from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.data.packed_images import PACKED
from distributed_pose.data.packing import ANNOTATIONS, pack_dataset
from distributed_pose.data.sources import FolderImages, open_images
from distributed_pose.keypoints.reading import coco_body
from tests.conftest import Dataset

COCO_KEYPOINTS = coco_body().dataset_keypoints


def test_a_packed_dataset_has_its_annotations_and_small_row_groups(
    people: Dataset, packed: Path
) -> None:
    kept = load_index(packed / ANNOTATIONS)
    assert kept.images == load_index(people.annotations).images
    with pq.ParquetFile(packed / "images-00000.parquet") as file:
        assert file.schema_arrow == PACKED
        assert file.metadata.row_group(0).num_rows <= 16
    assert not list(packed.glob("*.partial"))


def test_a_limited_dataset_is_packed_with_the_annotations_of_its_images_only(
    people: Dataset, tmp_path: Path
) -> None:
    limited = load_index(people.annotations, limit=3)
    pack_dataset(limited, FolderImages(people.images), tmp_path.as_uri())
    kept = load_index(tmp_path / ANNOTATIONS)
    assert kept.images == limited.images
    assert not kept.is_partial


def test_packing_into_a_folder_that_is_not_empty_is_refused(
    people: Dataset, packed: Path, index: CocoIndex
) -> None:
    with pytest.raises(SetupError, match="is not empty"):
        pack_dataset(index, FolderImages(people.images), str(packed))


def test_packing_fails_if_an_image_cannot_be_read(index: CocoIndex, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExecutionError, match=index.images[0].file_name):
        pack_dataset(index, FolderImages(tmp_path / "empty"), str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_large_images_are_packed_into_smaller_row_groups(tmp_path: Path) -> None:
    contents = {f"{number}.jpg": bytes([number]) * (2**25 + 1) for number in range(3)}
    (tmp_path / "images").mkdir()
    for name, content in contents.items():
        (tmp_path / "images" / name).write_bytes(content)
    listed = [
        {"id": n, "file_name": name, "height": 9, "width": 9} for n, name in enumerate(contents)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS)}]
    labels = {"images": listed, "annotations": [], "categories": categories}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    images = FolderImages(tmp_path / "images")
    pack_dataset(load_index(tmp_path / "labels.json"), images, str(tmp_path / "packed"))
    with pq.ParquetFile(tmp_path / "packed" / "images-00000.parquet") as file:
        assert file.num_row_groups == 3
    source = open_images(str(tmp_path / "packed"))
    assert all(source.read(name) == content for name, content in contents.items())
