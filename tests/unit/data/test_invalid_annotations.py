"""Invalid annotation files are refused in a message that names the entry."""

import contextlib
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distributed_pose import SetupError
from distributed_pose.data.coco import load_index
from tests.small_annotations import Content, content, write

IMAGE_CHANGES = [
    ({"id": 10}, "image id 10 is listed twice, as two images"),
    ({"id": True}, r"images\[0\]: 'id' is True, not an id"),
    ({"id": None}, r"images\[0\]: 'id' is null"),
    ({"id": "30"}, "some image ids are text and some are numbers"),
    ({"id": math.nan}, r"images\[0\]: 'id' is nan, not an id"),
    ({"height": None}, r"images\[0\]: 'height' is null"),
    ({"height": math.inf}, r"images\[0\]: 'height' is inf, not a number"),
    ({"height": 48.5}, r"images\[0\]: 'height' is 48.5, not a whole number"),
    ({"height": 0}, r"images\[0\].*64x0"),
    ({"width": "wide"}, r"images\[0\]: 'width' is 'wide', not a number"),
    ({"width": 10**400}, r"images\[0\]: 'width' is 10*\.\.\., not a number"),
    ({"width": -1}, r"images\[0\].*-1x48"),
    ({"file_name": ""}, r"images\[0\]: 'file_name' is ''"),
    ({"file_name": 7}, r"images\[0\]: 'file_name' is 7"),
    ({"file_name": "a\0b"}, r"images\[0\]: 'file_name' is 'a\\x00b'"),
    ({"file_name": "\ud800.jpg"}, r"images\[0\]: 'file_name'"),
    ({"file_name": "\udc80.jpg"}, r"images\[0\]: 'file_name'"),
    ({"height": 2**31}, r"images\[0\].*64x2147483648"),
    ({"file_name": "../a.jpg"}, "leaves the image folder"),
    ({"file_name": "a/../../b.jpg"}, "leaves the image folder"),
    ({"file_name": "..\\b.jpg"}, "leaves the image folder"),
    ({"file_name": "/etc/passwd"}, "leaves the image folder"),
    ({"file_name": "C:b.jpg"}, "leaves the image folder"),
    ({"file_name": "\\\\host\\b.jpg"}, "leaves the image folder"),
]


UNLABELLED = {"keypoints": [0] * 51, "num_keypoints": 0}


PERSON_CHANGES = [
    ({"image_id": None}, "'image_id' is null"),
    ({"image_id": True}, "'image_id' is True, not an id"),
    ({"image_id": "20"}, "'image_id' is '20', unlike the ids of the images"),
    ({"category_id": None}, "'category_id' is null"),
    ({"keypoints": None}, "'num_keypoints' is 1, but 'keypoints' is missing"),
    ({"keypoints": "5,6,2"}, "'keypoints' is '5,6,2', not a list"),
    ({"keypoints": [5, 6, 2] + [0] * 47}, "'keypoints' has 50 numbers"),
    ({"keypoints": [5, 6, "2"] + [0] * 48}, "not a list of 51 numbers"),
    ({"keypoints": [5, 6, None] + [0] * 48}, "not a list of 51 numbers"),
    ({"keypoints": [[5, 6]] * 17}, "not a list of 51 numbers"),
    ({"keypoints": [math.nan, 6, 2] + [0] * 48}, "at an impossible position"),
    ({"keypoints": [2**63, 6, 2] + [0] * 48}, "at an impossible position"),
    ({"keypoints": [10**400, 6, 2] + [0] * 48}, "cannot be a pixel"),
    ({"num_keypoints": "many"}, "'num_keypoints' is 'many', not a number"),
    ({"num_keypoints": math.nan}, "'num_keypoints' is nan, not a number"),
    ({"iscrowd": 0.5}, "'iscrowd' is 0.5, not 0 or 1"),
    ({"iscrowd": []}, "'iscrowd' is a list of 0, not a number"),
    ({**UNLABELLED, "bbox": [1, 2, 3]}, "no keypoint is labelled, and 'bbox' is not four numbers"),
    ({**UNLABELLED, "bbox": [1, 2, 3, math.inf]}, "'bbox'"),
    ({**UNLABELLED, "bbox": None}, "'bbox'"),
    ({"area": -1}, "'area' is -1"),
    ({"area": math.nan}, "'area' is nan, not a number"),
    ({"area": True}, "'area' is True, not a number"),
    ({"area": None}, "'area' is null"),
]


@pytest.mark.parametrize(("change", "message"), IMAGE_CHANGES)
def test_an_invalid_image_is_refused_by_its_position(
    tmp_path: Path, change: Content, message: str
) -> None:
    broken = content()
    broken["images"][0].update(change)
    with pytest.raises(SetupError, match=message):
        load_index(write(tmp_path, broken))


@pytest.mark.parametrize(("change", "message"), PERSON_CHANGES)
def test_an_invalid_person_is_refused_by_its_position(
    tmp_path: Path, change: Content, message: str
) -> None:
    broken = content()
    broken["annotations"][0].update(change)
    with pytest.raises(SetupError, match=rf"annotations\[0\].*{message}"):
        load_index(write(tmp_path, broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "has no list 'images'"),
        (lambda c: c.update(images={}), "'images' is an object of 0, not a list"),
        (lambda c: c.update(images=[]), "no images"),
        (lambda c: c.update(annotations=[1]), r"annotations\[0\] is 1, not an object"),
        (lambda c: c.update(annotations={"1": {}}), "'annotations' is an object of 1"),
        (lambda c: c["annotations"][0].pop("area"), r"annotations\[0\]: 'area' is missing"),
        (lambda c: c.pop("categories"), "has no list 'categories'"),
        (lambda c: c["categories"].append({"name": "dog"}), r"categories\[1\]: 'id' is missing"),
        (lambda c: c["categories"].append({"id": [2]}), r"categories\[1\]: 'id' is a list of 1"),
        (lambda c: c["categories"].append(7), r"categories\[1\] is 7, not an object"),
        (lambda c: c["categories"][0]["keypoints"].pop(), "16 keypoints, COCO's person has 17"),
    ],
)
def test_an_invalid_file_is_refused_by_name(
    tmp_path: Path, change: Callable[[Content], object], message: str
) -> None:
    broken = content()
    change(broken)
    with pytest.raises(SetupError, match=rf"people\.json.*{message}"):
        load_index(write(tmp_path, broken))


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
def test_mutated_annotations_are_loaded_or_raise_a_setup_error(
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
