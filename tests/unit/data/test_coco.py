"""Annotation files as tools write them: the index of a valid one, and errors that name an entry."""

import contextlib
import copy
import gzip
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distributed_pose import SetupError
from distributed_pose.data import annotation_file
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


def test_images_are_in_ascending_order_of_id_including_those_without_people(tmp_path: Path) -> None:
    index = load_index(write(tmp_path, content()))
    assert [image.image_id for image in index.images] == [10, 20, 30]
    assert (index.images[0].height, index.images[0].width) == (48, 64)
    assert not index.is_partial
    assert index.ground_truth["annotations"] == content()["annotations"]
    assert (index.category_id, index.listed_ids, index.notes) == (1, {}, ())


@pytest.mark.parametrize("limit", [None, 2])
def test_a_repeated_dataset_lists_the_same_people_with_new_image_ids(
    tmp_path: Path, limit: int | None
) -> None:
    index = load_index(write(tmp_path, content()), limit=limit)
    thrice = repeated(index, 3)
    names = [image.file_name for image in index.images]
    assert [image.file_name for image in thrice.images] == 3 * names
    assert thrice.is_partial == index.is_partial
    # The result is a valid dataset itself.
    (tmp_path / "thrice").mkdir()
    written = load_index(write(tmp_path / "thrice", thrice.ground_truth))
    assert written.images == thrice.images
    people = written.ground_truth["annotations"]
    assert [person["keypoints"] for person in people] == 3 * [
        content()["annotations"][0]["keypoints"]
    ]
    assert repeated(index, 1) is index


@pytest.mark.parametrize("limit", [3, 4])
def test_a_limit_that_excludes_no_image_is_not_partial(tmp_path: Path, limit: int) -> None:
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


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "[" * 100_000, "\xff"])
def test_a_file_that_is_not_a_json_object_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "people.json"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"people\.json"):
        load_index(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
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


def change_category(content: Content, **values: object) -> None:
    content["categories"][0].update(values)


OTHER_NAMES = ["nose", "head_bottom", "head_top", *COCO_KEYPOINTS[3:]]
SWAPPED = [COCO_KEYPOINTS[0], COCO_KEYPOINTS[2], COCO_KEYPOINTS[1], *COCO_KEYPOINTS[3:]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (OTHER_NAMES, "'head_bottom' in place of 'left_eye', 'head_top' in place of 'right_eye'"),
        (SWAPPED, "in another order: 'right_eye' in place of 'left_eye', 'left_eye' in place"),
        ([*map(str, range(17))], "'4' in place of 'right_ear' and 12 more"),
        (["nose"] * 17, "other keypoints than COCO's person"),
    ],
)
@pytest.mark.parametrize("category", [None, 1, "1", "person"])
def test_keypoints_that_are_not_cocos_are_refused_by_name(
    tmp_path: Path, names: list[str], message: str, category: int | str | None
) -> None:
    other = content()
    change_category(other, keypoints=names)
    with pytest.raises(SetupError, match=message):
        load_index(write(tmp_path, other), category=category)


@pytest.mark.parametrize(
    "spell",
    [str.upper, lambda n: n.title().replace("_", " "), lambda n: n.replace("_", "-"), str.title],
)
def test_case_and_separators_of_keypoint_names_do_not_matter(
    tmp_path: Path, spell: Callable[[str], str]
) -> None:
    spelled = content()
    change_category(spelled, keypoints=[*map(spell, COCO_KEYPOINTS)])
    assert load_index(write(tmp_path, spelled)).notes == ()


def with_categories(*categories: Content) -> Content:
    return {**content(), "categories": [*categories]}


COCO = {"keypoints": list(COCO_KEYPOINTS)}
FACE = {"id": 4, "name": "face", "keypoints": ["chin"]}


@pytest.mark.parametrize(
    ("categories", "wanted", "chosen"),
    [
        ([{"id": 1, "name": "cat"}, {"id": 7, "name": "human", **COCO}, FACE], None, 7),
        ([{"id": 1, "name": "cat"}, {"id": "x", "name": "human", **COCO}], None, "x"),
        ([{"id": 3, "name": "a", **COCO}, {"id": 4, "name": "b", **COCO}], "b", 4),
        ([{"id": 3, "name": "a", **COCO}, {"id": 4, "name": "b", **COCO}], 3, 3),
        ([{"id": 3, "name": "a", **COCO}, {"id": 4, "name": "b", **COCO}], "3", 3),
        ([{"id": 0, "name": "pose"}], None, 0),
        ([{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}], None, 1),
        ([{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}], "dog", 2),
        ([{"id": 2, **COCO}, {"id": 2, **COCO}], None, 2),
    ],
)
def test_the_category_is_the_requested_one_or_the_one_with_cocos_keypoints(
    tmp_path: Path, categories: list[Content], wanted: int | str | None, chosen: object
) -> None:
    index = load_index(write(tmp_path, with_categories(*categories)), category=wanted)
    assert index.category_id == chosen
    is_named = any(category.get("keypoints") for category in categories)
    assert any("names no keypoints" in note for note in index.notes) != is_named


@pytest.mark.parametrize(
    ("categories", "wanted", "message"),
    [
        (
            [{"id": 3, "name": "a", **COCO}, {"id": 4, "name": "b", **COCO}],
            None,
            "COCO's 17 keypoints belong to categories 3 'a', 4 'b'.*data.category",
        ),
        (
            [FACE, {**FACE, "id": 5}],
            None,
            "no category has COCO's 17 keypoints; the file has.*4 'face'",
        ),
        ([FACE], None, "category 4 'face' has 1 keypoints, COCO's person has 17"),
        (
            [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            None,
            "names its keypoints.*1 'cat'",
        ),
        ([{"id": 1, "name": "cat"}], 5, "data.category is 5, and the file has category 1 'cat'"),
        (
            [{"id": n, "name": "cat"} for n in range(9)],
            "cat",
            "data.category is 'cat', and the file has categories 0 'cat', .* and 4 more",
        ),
        ([{"id": 1, "name": "\x1b[31m"}], 5, r"category 1 '\\x1b\[31m'"),
    ],
)
def test_the_message_lists_the_categories_if_none_or_several_fit(
    tmp_path: Path, categories: list[Content], wanted: int | str | None, message: str
) -> None:
    with pytest.raises(SetupError, match=message) as error:
        load_index(write(tmp_path, with_categories(*categories)), category=wanted)
    assert len(str(error.value).splitlines()) == 1


def test_people_need_17_keypoints_even_if_the_category_does_not_name_them(tmp_path: Path) -> None:
    nameless = with_categories({"id": 1, "name": "person"})
    nameless["annotations"][0]["keypoints"] = [5, 6, 2] * 14
    with pytest.raises(SetupError, match="has 42 numbers, COCO's person has 51"):
        load_index(write(tmp_path, nameless))


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"id": 0}, r"id 0 as no match \(1\)"),
        ({"id": "a"}, r"some are not integers \(1\)"),
        ({"id": None}, r"some are not integers \(1\)"),
        ({"image_id": 99}, r"images that are not listed are ignored \(1\)"),
        ({"iscrowd": None}, r"'iscrowd' do not count as crowds \(1\)"),
        ({"category_id": "1"}, r"written as text are read as numbers \(1\)"),
        ({"iscrowd": "0"}, r"written as text are read as numbers \(1\)"),
        ({"num_keypoints": None}, r"get the number of their labelled keypoints \(1\)"),
        ({"num_keypoints": 17}, r"it only matters whether it is 0 \(1\)"),
        ({"keypoints": [], "num_keypoints": 0}, r"unlabelled people, .* is ignored \(1\)"),
        ({"keypoints": [[5, 6, 2]] + [[0, 0, 0]] * 16}, r"lists of three .* one list \(1\)"),
        ({"keypoints": [5, 6, 0.9] + [0] * 48}, r"other than 0, 1 and 2 .* \(1\)"),
        ({"area": 0}, r"People of area 0 are matched by exact keypoints alone"),
        ({"ignore": 1}, r"'ignore' is set but not read"),
        ({"num_keypoints": 0}, "No person is labelled outside crowds"),
        ({"iscrowd": 1}, "No person is labelled outside crowds"),
    ],
)
def test_ignored_replaced_and_assumed_values_are_noted(
    tmp_path: Path, change: Content, note: str
) -> None:
    odd = content()
    odd["annotations"][0].update(change)
    assert any(re.search(note, line) for line in load_index(write(tmp_path, odd)).notes)


def test_duplicate_annotation_ids_are_noted_and_both_people_are_kept(tmp_path: Path) -> None:
    twice = content()
    twice["annotations"] += twice["annotations"]
    index = load_index(write(tmp_path, twice))
    assert [one["id"] for one in index.ground_truth["annotations"]] == [1, 2]
    assert any("more than once (1)" in note for note in index.notes)


def test_images_that_are_listed_twice_or_share_a_file_are_noted(tmp_path: Path) -> None:
    twice = content()
    twice["images"] += [dict(twice["images"][0]), {**twice["images"][1], "id": 11}]
    index = load_index(write(tmp_path, twice))
    assert [image.image_id for image in index.images] == [10, 11, 20, 30]
    assert any("listed twice count once (1)" in note for note in index.notes)
    assert any("share their file" in note for note in index.notes)


@pytest.mark.parametrize("value", [MISSING := object(), None])
def test_a_file_without_annotations_is_not_labelled(tmp_path: Path, value: object) -> None:
    unlabelled = with_categories(*({"id": n, "name": f"thing {n}"} for n in (2, 3, 4)))
    unlabelled["categories"].append({"id": 1, "name": "person"})
    unlabelled.pop("annotations") if value is MISSING else unlabelled.update(annotations=value)
    index = load_index(write(tmp_path, unlabelled))
    assert not index.is_labelled
    assert (index.category_id, index.ground_truth["annotations"]) == (1, [])
    unlabelled.pop("categories")
    assert load_index(write(tmp_path, unlabelled)).category_id == 1


def test_a_file_with_an_empty_list_of_annotations_is_labelled(tmp_path: Path) -> None:
    index = load_index(write(tmp_path, {**content(), "annotations": []}))
    assert index.is_labelled
    assert any("No person is labelled" in note for note in index.notes)


@pytest.mark.parametrize(
    "ids",
    [
        [2**63 - 1, 2**63 - 2, 5],
        [-(2**63), 2**63 - 1, 0],
        [2**63, 2**64, 1],
        ["b", "a", "0001"],
        [0.5, 1, 2],
    ],
)
def test_image_ids_of_any_kind_are_kept_and_repeated_images_get_new_ones(
    tmp_path: Path, ids: list[Any]
) -> None:
    renamed = content()
    for image, new in zip(renamed["images"], ids, strict=True):
        image["id"] = new
    renamed["annotations"][0]["image_id"] = ids[0]
    index = load_index(write(tmp_path, renamed))
    assert [index.listed_id(image.image_id) for image in index.images] == sorted(ids)
    thrice = repeated(index, 3)
    ours = [image.image_id for image in thrice.images]
    assert len(set(ours)) == 9
    assert all(-(2**63) <= one < 2**63 for one in ours)
    listed = [thrice.listed_id(one) for one in ours]
    assert (listed[:3], len(set(listed))) == (sorted(ids), 9)
    people = [one["image_id"] for one in thrice.ground_truth["annotations"]]
    assert people == ours[sorted(ids).index(ids[0]) :: 3]


def test_detections_are_returned_with_the_ids_of_the_file(tmp_path: Path) -> None:
    renamed = with_categories({"id": "human", **COCO})
    for image in renamed["images"]:
        image["id"] = f"{image['id']:04d}"
    renamed["annotations"] = []
    index = load_index(write(tmp_path, renamed))
    found = [{"image_id": image.image_id, "category_id": 1, "score": 1} for image in index.images]
    assert index.as_listed(found) == [
        {"image_id": listed, "category_id": "human", "score": 1}
        for listed in ("0010", "0020", "0030")
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_in_any_unicode_encoding_with_or_without_gzip(
    tmp_path: Path, encoding: str, packed: bool
) -> None:
    data = json.dumps(content()).encode(encoding)
    path = tmp_path / "people.json"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert len(load_index(path).images) == 3


def test_a_damaged_or_too_large_gzip_file_is_a_setup_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "people.json"
    packed = gzip.compress(json.dumps(content()).encode())
    for damaged in (packed[:-9], packed[:30], packed[:50] + b"xxxx" + packed[54:]):
        path.write_bytes(damaged)
        with pytest.raises(SetupError, match=r"people\.json is a damaged gzip file"):
            load_index(path)
    monkeypatch.setattr(annotation_file, "_MAX_UNPACKED_BYTES", 500)
    path.write_bytes(packed)
    with pytest.raises(SetupError, match="unpacks to over 500 bytes"):
        load_index(path)


@pytest.mark.parametrize(
    ("spelled", "flag"),
    [(0, 0), (False, 0), ("0", 0), ("False", 0), (0.0, 0), (1, 1), (True, 1), ("true", 1), (2, 1)],
)
def test_the_crowd_flag_may_be_a_number_a_boolean_or_text(
    tmp_path: Path, spelled: object, flag: int
) -> None:
    odd = content()
    odd["annotations"][0]["iscrowd"] = spelled
    assert load_index(write(tmp_path, odd)).ground_truth["annotations"][0]["iscrowd"] == flag
