"""Annotation files and detections files are checked against the keypoint set of the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed_pose import ExecutionError, SetupError
from distributed_pose.data.coco import load_index
from distributed_pose.data.detections import DetectionsStore
from distributed_pose.data.results_file import read_results
from distributed_pose.data.shards import detected_images, pack_detections, unpack_detections
from distributed_pose.keypoints.reading import read_keypoint_set
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.assemble import Poses
from tests.keypoint_sets import LEGS_YAML
from tests.small_annotations import Content, content, write

LEGS = ["left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"]


@pytest.fixture
def legs(tmp_path: Path) -> KeypointSet:
    path = tmp_path / "legs.yaml"
    path.write_text(LEGS_YAML)
    return read_keypoint_set(path)


def of_legs(names: list[str] = LEGS, **values: object) -> Content:
    changed = content()
    changed["categories"][0]["keypoints"] = names
    changed["annotations"][0] |= {"keypoints": [5, 6, 2] + [0] * 15, **values}
    return changed


def test_people_have_the_keypoints_of_the_set(tmp_path: Path, legs: KeypointSet) -> None:
    index = load_index(write(tmp_path, of_legs()), keypoints=legs)
    (person,) = index.people.rows()
    assert person["keypoints"] == [5, 6, 2] + [0] * 15
    assert index.ground_truth["categories"][0]["keypoints"] == LEGS
    assert index.notes == ()


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"keypoints": [[5, 6, 2]] + [[0, 0, 0]] * 5}, "lists of three"),
        ({"keypoints": [5, 6, 2] + [None] * 15}, None),
        ({"keypoints": [], "num_keypoints": 0}, "without keypoints count as unlabelled"),
        ({"keypoints": [0] * 51, "num_keypoints": 0}, None),
    ],
)
def test_keypoints_may_be_written_in_the_forms_that_cocos_may_have(
    tmp_path: Path, legs: KeypointSet, values: dict[str, object], note: str | None
) -> None:
    index = load_index(write(tmp_path, of_legs(**values)), keypoints=legs)
    (person,) = index.people.rows()
    assert person["keypoints"][3:] == [0] * 15
    assert note is None or any(note in line for line in index.notes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (LEGS[::-1], "the keypoints of the keypoint set legs in another order: 'right_ankle'"),
        (["tail", *LEGS[1:]], "other keypoints than the keypoint set legs: 'tail' in place of"),
        (LEGS[1:], "has 5 keypoints, the keypoint set legs has 6 .*--keypoints"),
    ],
)
def test_other_names_than_those_of_the_set_are_refused_on_one_line(
    tmp_path: Path, legs: KeypointSet, names: list[str], message: str
) -> None:
    with pytest.raises(SetupError, match=message) as error:
        load_index(write(tmp_path, of_legs(names)), keypoints=legs)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_of_another_set_names_the_key_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"6 keypoints, COCO's person has 17 .set keypoints"):
        load_index(write(tmp_path, of_legs()))


def test_a_cocos_file_does_not_fit_the_set(tmp_path: Path, legs: KeypointSet) -> None:
    with pytest.raises(SetupError, match="17 keypoints, the keypoint set legs has 6"):
        load_index(write(tmp_path, content()), keypoints=legs)


def test_names_that_are_missing_are_assumed_and_the_number_of_values_is_checked(
    tmp_path: Path, legs: KeypointSet
) -> None:
    nameless = of_legs()
    del nameless["categories"][0]["keypoints"]
    (note,) = load_index(write(tmp_path, nameless), keypoints=legs).notes
    assert "assumed to be the 6 keypoints of the keypoint set legs" in note
    nameless["annotations"][0]["keypoints"] = [5, 6, 2] * 17
    with pytest.raises(SetupError, match="has 51 numbers, the keypoint set legs has 18"):
        load_index(write(tmp_path, nameless), keypoints=legs)


@pytest.mark.parametrize(("number", "fits"), [(6, True), (17, False)])
def test_detections_of_another_set_are_refused(
    tmp_path: Path, legs: KeypointSet, number: int, *, fits: bool
) -> None:
    index = load_index(write(tmp_path, of_legs()), keypoints=legs)
    detection: dict[str, Any] = {"image_id": 20, "category_id": 1, "score": 1.0}
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{**detection, "keypoints": [1.5] * 3 * number}]))
    if fits:
        assert len(read_results(path, index)[0]) == 1
        return
    with pytest.raises(SetupError, match="has 51 values, the keypoint set legs has 18") as error:
        read_results(path, index)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("number", [1, 6, 100])
def test_detections_of_any_width_come_back_exactly(number: int) -> None:
    keypoints = np.arange(2 * 3 * number, dtype=np.float64).reshape(2, -1) + 0.25
    packed = pack_detections(np.array([4, 5]), Poses(keypoints, np.ones(2)))
    assert [row["keypoints"] for row in unpack_detections(packed)] == keypoints.tolist()
    assert detected_images(packed) == {4, 5}
    store = DetectionsStore()
    store.add(packed)
    assert [row["keypoints"] for row in store.in_canonical_order()] == keypoints.tolist()


@pytest.mark.parametrize("width", [0, 4])
def test_detections_without_three_values_per_keypoint_are_refused(width: int) -> None:
    packed = pack_detections(np.array([4]), Poses(np.ones((1, width)), np.ones(1)))
    with pytest.raises(ExecutionError, match="not three per keypoint"):
        detected_images(packed)


def test_detections_of_two_sets_in_one_run_are_refused() -> None:
    store = DetectionsStore()
    for width in (18, 51):
        store.add(pack_detections(np.array([4]), Poses(np.ones((1, width)), np.ones(1))))
        store.add(pack_detections(np.empty(0, np.int64), Poses(np.ones((0, 9)), np.ones(0))))
    with pytest.raises(ExecutionError, match="18 to 51 values"):
        store.in_canonical_order()
