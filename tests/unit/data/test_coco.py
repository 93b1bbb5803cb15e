"""The index of a valid annotation file: its images, ids, limits and notes."""

import re
from pathlib import Path
from typing import Any

import pytest

from distributed_pose.data.coco import load_index, repeated
from tests.small_annotations import COCO, Content, content, with_categories, write


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
    ids = [image.image_id for image in thrice.images]
    assert thrice.originals(ids).tolist() == 3 * [*range(len(names))]
    # Images that are left out have no number.
    assert thrice.originals([ids[-1], ids[0], ids[len(names) - 1]]).tolist() == [1, 0, 1]
    assert index.originals(ids[: len(names)]).tolist() == [*range(len(names))]


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
        ({"area": 0}, r"People of area 0 are matched by exact keypoints only"),
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
    assert [*index.as_listed(found)] == [
        {"image_id": listed, "category_id": "human", "score": 1}
        for listed in ("0010", "0020", "0030")
    ]


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
