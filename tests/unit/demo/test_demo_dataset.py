"""The demo dataset depends only on its seed, and is a valid COCO keypoint dataset."""

import contextlib
import io
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from distributed_pose.demo.dataset import FIRST_TRAINING_SEED, write_dataset
from distributed_pose.errors import ConfigError, ExecutionError


def content(dataset):
    files = sorted(dataset.images.iterdir())
    return {path.name: path.read_bytes() for path in [*files, dataset.annotations]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def coco(dataset):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(dataset.annotations))


def test_same_seed_gives_the_same_bytes(tmp_path):
    first = write_dataset(tmp_path / "a", 5, seed=7)
    second = write_dataset(tmp_path / "b", 5, seed=7)
    assert content(first) == content(second)


def test_another_seed_gives_other_images(tmp_path):
    first = write_dataset(tmp_path / "a", 2, seed=0)
    second = write_dataset(tmp_path / "b", 2, seed=1)
    assert all(
        content(first)[name] != content(second)[name]
        for name in ("000000000001.jpg", "000000000002.jpg", "person_keypoints.json")
    )


def test_images_do_not_depend_on_how_many_are_written(tmp_path, dataset):
    small = write_dataset(tmp_path, 3)
    for path in small.images.iterdir():
        assert path.read_bytes() == (dataset.images / path.name).read_bytes()


def test_the_default_dataset_has_64_images_of_the_annotated_sizes(dataset, coco):
    assert len(coco.imgs) == 64
    for record in coco.imgs.values():
        image = cv2.imread(str(dataset.images / record["file_name"]))
        assert image is not None
        assert image.shape == (record["height"], record["width"], 3)


def test_annotations_are_consistent(coco):
    for annotation in coco.anns.values():
        keypoints = np.reshape(annotation["keypoints"], (17, 3))
        assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
        record = coco.imgs[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        assert 0 <= x <= x + width <= record["width"]
        assert 0 <= y <= y + height <= record["height"]
        assert 0 < annotation["area"] <= width * height


def test_pycocotools_reads_the_segmentations(coco):
    for annotation in coco.anns.values():
        area = coco_mask.area(coco.annToRLE(annotation))
        tolerance = 0 if annotation["iscrowd"] else 0.25 * annotation["area"] + 60
        assert abs(area - annotation["area"]) <= tolerance


def test_crowds_unlabelled_people_and_empty_images_occur(coco):
    annotations = coco.anns.values()
    assert any(a["iscrowd"] for a in annotations)
    assert any(not a["iscrowd"] and a["num_keypoints"] == 0 for a in annotations)
    assert len({a["image_id"] for a in annotations}) < len(coco.imgs)


def test_category_names_the_keypoints(coco):
    person = coco.cats[1]
    assert person["keypoints"][:3] == ["nose", "left_eye", "right_eye"]
    assert len(person["keypoints"]) == 17
    assert all(1 <= end <= 17 for limb in person["skeleton"] for end in limb)


def test_progress_counts_the_images(tmp_path):
    seen: list[int] = []
    write_dataset(tmp_path, 3, progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("images", "seed"), [(0, 0), (-1, 0), (1, -1), (1, FIRST_TRAINING_SEED)])
def test_numbers_out_of_range_are_refused(tmp_path, images, seed):
    with pytest.raises(ConfigError):
        write_dataset(tmp_path, images, seed)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExecutionError, match="file"):
        write_dataset(tmp_path / "file", 1)


def test_annotation_file_is_strict_json(dataset):
    text = dataset.annotations.read_text()
    assert "NaN" not in text
    assert json.loads(text)["info"]["seed"] == 0
