"""Keypoint sets are read from YAML files, and sets that cannot be decoded are refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pycocotools.cocoeval import Params

from distributed_pose.errors import ConfigError
from distributed_pose.keypoints.reading import (
    check_keypoint_set,
    coco_body,
    read_keypoint_set,
)
from distributed_pose.keypoints.sets import Limb

SMALL = """
name: arm
keypoints: [shoulder, elbow, wrist, middle]
dataset: {wrist: 0.062, elbow: 0.072, shoulder: 0.079}
derived: {middle: [shoulder, wrist]}
limbs:
  - {from: shoulder, to: elbow, paf: [2, 3]}
  - {from: elbow, to: wrist, paf: [0, 1]}
  - {from: shoulder, to: middle, paf: [4, 5]}
  - {from: middle, to: wrist, paf: [6, 7], fills: true}
"""


def saved(folder: Path, text: str) -> Path:
    path = folder / "set.yaml"
    path.write_text(text)
    return path


def test_the_body_of_coco_has_the_sigmas_of_pycocotools_to_the_last_bit() -> None:
    assert coco_body().sigmas == tuple(Params("keypoints").kpt_oks_sigmas.tolist())


def test_numbers_follow_the_order_of_the_names(tmp_path: Path) -> None:
    found = read_keypoint_set(saved(tmp_path, SMALL))
    assert found.to_dataset == (2, 1, 0, None)
    assert found.limbs[3] == Limb(start=3, end=2, paf_x=6, paf_y=7, fills=True)
    assert (found.num_heatmaps, found.num_pafs) == (5, 8)
    assert found.derived == (("middle", ("shoulder", "wrist")),)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("wrist, middle]", "wrist, wrist]", "a name occurs twice"),
        ("{wrist: 0.062, ", "{hand: 0.062, ", "dataset: hand is none of the keypoints"),
        ("[shoulder, wrist]}", "[hip]}", "derived.middle: hip is none of the dataset's"),
        ("derived: {middle: [shoulder, wrist]}", "", "middle is neither in the dataset nor"),
        ("paf: [4, 5]", "paf: [4, 6]", "the PAF channels 0 to 7"),
        ("paf: [4, 5]", "paf: [4]", "limbs.2.paf"),
        (", fills: true", "", "a limb between two reached keypoints needs fills: true"),
        ("from: elbow, to: wrist", "from: wrist, to: elbow", "must begin at a keypoint"),
        ("from: middle, to: wrist", "from: wrist, to: wrist", "must connect two keypoints"),
        ("wrist, middle]", "wrist, middle, hip]", "hip is neither"),
        ("wrist: 0.062", "wrist: 0", "dataset.wrist"),
        ("name: arm", "nome: arm", "name"),
        ("name: arm", 'name: "an\\narm"', "name: String should match"),
        ("limbs:", "limbs: [", "is not YAML"),
    ],
)
def test_a_set_that_cannot_be_decoded_is_refused_by_name(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=re.escape(reason)):
        read_keypoint_set(saved(tmp_path, SMALL.replace(old, new, 1)))


@pytest.mark.parametrize(
    "changes",
    [
        {"sigmas": (0.05,)},
        {"sigmas": (0.0,) * 17},
        {"keypoints": ("nose",) * 18},
        {"dataset_keypoints": ("nose",) * 17},
        {"derived": ()},
        {"derived": (("neck", ("left_shoulder",)), ("neck", ("left_shoulder", "right_shoulder")))},
        {"limbs": ()},
        {"limbs": (Limb(1, 99, 0, 1),)},
        {"limbs": (Limb(-17, 2, 12, 13), *coco_body().limbs[1:])},
        {"limbs": coco_body().limbs[::-1]},
        {"name": ""},
    ],
)
def test_a_stored_set_whose_parts_do_not_fit_is_refused(changes: dict[str, Any]) -> None:
    check_keypoint_set(coco_body())
    with pytest.raises(ValueError, match="do not fit together"):
        check_keypoint_set(replace(coco_body(), **changes))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_keypoint_set(tmp_path / "none.yaml")


def test_the_set_that_the_documentation_shows_is_valid(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "howto" / "keypoint-sets.md"
    _, _, block = page.read_text().partition("```yaml\n")
    found = read_keypoint_set(saved(tmp_path, block.partition("```")[0]))
    assert found.name == "legs"
