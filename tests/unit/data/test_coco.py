import contextlib
import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distributed_pose import SetupError
from distributed_pose.data.coco import load_index, repeated
from distributed_pose.pose.skeleton import COCO_KEYPOINTS

Content = dict[str, Any]


def content() -> Content:
    person = {
        "id": 1,
        "image_id": 20,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 1,
        "keypoints": [5, 6, 2] + [0] * 48,
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "area": 12.0,
    }
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": 48, "width": 64}
            for number in (30, 10, 20)
        ],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS)}],
    }


def write(folder: Path, value: object) -> Path:
    path = folder / "people.json"
    path.write_text(json.dumps(value))
    return path


def test_images_come_by_ascending_id_those_without_people_too(tmp_path: Path) -> None:
    index = load_index(write(tmp_path, content()))
    assert [image.image_id for image in index.images] == [10, 20, 30]
    assert (index.images[0].height, index.images[0].width) == (48, 64)
    assert not index.is_partial
    assert index.ground_truth == content()


@pytest.mark.parametrize("limit", [None, 2])
def test_a_repeated_dataset_has_the_same_people_under_other_ids(
    tmp_path: Path, limit: int | None
) -> None:
    index = load_index(write(tmp_path, content()), limit=limit)
    thrice = repeated(index, 3)
    names = [image.file_name for image in index.images]
    assert [image.file_name for image in thrice.images] == 3 * names
    assert thrice.is_partial == index.is_partial
    # It is a dataset like any other.
    (tmp_path / "thrice").mkdir()
    written = load_index(write(tmp_path / "thrice", thrice.ground_truth))
    assert written.images == thrice.images
    people = written.ground_truth["annotations"]
    assert [person["keypoints"] for person in people] == 3 * [
        content()["annotations"][0]["keypoints"]
    ]
    assert repeated(index, 1) is index


@pytest.mark.parametrize("limit", [3, 4])
def test_a_limit_that_leaves_nothing_out_is_not_partial(tmp_path: Path, limit: int) -> None:
    index = load_index(write(tmp_path, content()), limit=limit)
    assert len(index.images) == 3
    assert not index.is_partial


def test_crowds_hidden_keypoints_and_other_categories_are_allowed(tmp_path: Path) -> None:
    allowed = content()
    allowed["annotations"][0]["keypoints"][2] = 1
    crowd = {"id": 2, "iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * 51}
    allowed["annotations"] += [
        {**allowed["annotations"][0], **crowd},
        {"id": 3, "image_id": 20, "category_id": 18},
    ]
    assert len(load_index(write(tmp_path, allowed)).images) == 3


def test_a_limit_keeps_the_first_ids_and_is_partial(tmp_path: Path) -> None:
    index = load_index(write(tmp_path, content()), limit=2)
    assert [image.image_id for image in index.images] == [10, 20]
    assert index.is_partial


IMAGE_CHANGES = [
    ({"id": 10}, "image id 10 is listed twice"),
    ({"id": True}, r"images\[0\]: id"),
    ({"id": 2**64}, r"images\[0\]: id"),
    ({"id": "30"}, r"images\[0\]: id"),
    ({"id": 30.0}, r"images\[0\]: id"),
    ({"height": None}, r"images\[0\]: height"),
    ({"height": math.inf}, r"images\[0\]: height"),
    ({"height": 0}, r"images\[0\].*64x0"),
    ({"width": "64"}, r"images\[0\]: width"),
    ({"width": -1}, r"images\[0\].*-1x48"),
    ({"file_name": ""}, r"images\[0\] has no file_name"),
    ({"file_name": 7}, r"images\[0\] has no file_name"),
    ({"file_name": "a\0b"}, r"images\[0\] has no file_name"),
    ({"file_name": "\ud800.jpg"}, r"images\[0\] has no file_name"),
    ({"file_name": "\udc80.jpg"}, r"images\[0\] has no file_name"),
    ({"height": 2**31}, r"images\[0\].*64x2147483648"),
    ({"file_name": "../a.jpg"}, "leaves the image folder"),
    ({"file_name": "a/../../b.jpg"}, "leaves the image folder"),
    ({"file_name": "..\\b.jpg"}, "leaves the image folder"),
    ({"file_name": "/etc/passwd"}, "leaves the image folder"),
    ({"file_name": "C:b.jpg"}, "leaves the image folder"),
    ({"file_name": "\\\\host\\b.jpg"}, "leaves the image folder"),
]

PERSON_CHANGES = [
    ({"id": None}, "id is no integer"),
    ({"image_id": 99}, "image 99, which is not listed"),
    ({"image_id": True}, "image_id is no integer"),
    ({"category_id": "1"}, "category_id is no integer"),
    ({"keypoints": None}, "list of 51 numbers"),
    ({"keypoints": [0] * 50}, "list of 51 numbers"),
    ({"keypoints": [math.nan] + [0] * 50}, "list of 51 numbers"),
    ({"keypoints": [True] + [0] * 50}, "list of 51 numbers"),
    ({"keypoints": [2**63] + [0] * 50}, "list of 51 numbers"),
    ({"keypoints": [0, 0, 3] + [0] * 48}, "visibility"),
    ({"keypoints": [0, 0, 0.5] + [0] * 48}, "visibility"),
    ({"num_keypoints": 2}, "num_keypoints"),
    ({"num_keypoints": None}, "num_keypoints is no integer"),
    ({"iscrowd": 2}, "iscrowd"),
    ({"iscrowd": False}, "iscrowd is no integer"),
    ({"bbox": [1, 2, 3]}, "bbox"),
    ({"bbox": [1, 2, 3, math.inf]}, "bbox"),
    ({"area": -1}, "area"),
    ({"area": math.nan}, "area"),
    ({"area": True}, "area"),
    ({"area": None}, "area"),
]


@pytest.mark.parametrize(("change", "message"), IMAGE_CHANGES)
def test_a_wrong_image_is_named(tmp_path: Path, change: Content, message: str) -> None:
    broken = content()
    broken["images"][0].update(change)
    with pytest.raises(SetupError, match=message):
        load_index(write(tmp_path, broken))


@pytest.mark.parametrize(("change", "message"), PERSON_CHANGES)
def test_a_wrong_person_is_named(tmp_path: Path, change: Content, message: str) -> None:
    broken = content()
    broken["annotations"][0].update(change)
    with pytest.raises(SetupError, match=rf"annotations\[0\].*{message}"):
        load_index(write(tmp_path, broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "'images'"),
        (lambda c: c.update(images={}), "'images'"),
        (lambda c: c.update(images=[]), "no images"),
        (lambda c: c.update(annotations=[1]), "'annotations'"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "annotation id 1 .* twice"),
        (lambda c: c.pop("categories"), "'categories'"),
        (lambda c: c["categories"].append({"name": "dog"}), r"categories\[1\]: id"),
        (lambda c: c["categories"].append({"id": [2]}), r"categories\[1\]: id"),
        (lambda c: c["categories"][0].update(id=2), "no keypoint file"),
        (lambda c: c["categories"][0].pop("keypoints"), "no keypoint file"),
        (lambda c: c["categories"][0]["keypoints"].pop(), "16 keypoints"),
    ],
)
def test_a_wrong_file_is_named(
    tmp_path: Path, change: Callable[[Content], object], message: str
) -> None:
    broken = content()
    change(broken)
    with pytest.raises(SetupError, match=rf"people\.json.*{message}"):
        load_index(write(tmp_path, broken))


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "[" * 100_000, "\xff"])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "people.json"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"people\.json"):
        load_index(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read .*nowhere\.json"):
        load_index(tmp_path / "nowhere.json")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), value=VALUES)
def test_mutated_annotations_load_or_are_a_setup_error(
    tmp_path: Path, data: st.DataObject, value: object
) -> None:
    mutated: Any = copy.deepcopy(content())
    place = mutated
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = value
            break
        place = place[key]
    path = write(tmp_path, mutated)
    # Any other error fails the test.
    with contextlib.suppress(SetupError):
        assert load_index(path).images
