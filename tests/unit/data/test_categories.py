"""The category of a file that is scored, and the names that its keypoints may have."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distributed_pose import SetupError
from distributed_pose.data.coco import load_index
from distributed_pose.keypoints.reading import coco_body
from tests.small_annotations import COCO, Content, content, with_categories, write

COCO_KEYPOINTS = coco_body().dataset_keypoints


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
    assert any("does not name its keypoints" in note for note in index.notes) != is_named


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
