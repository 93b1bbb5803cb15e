"""Kinds of error in detections that are the labels with one known change, and AP by part."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distributed_pose.data.coco import CocoIndex
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.metrics.coco_ap import coco_ap
from distributed_pose.metrics.error_kinds import KEYPOINT_KINDS, opposites
from distributed_pose.metrics.ground_truth import people_of
from distributed_pose.metrics.matches import AREAS, match
from distributed_pose.metrics.precision_recall import PrecisionRecall
from distributed_pose.records.images import ImageRecord
from distributed_pose.report.analysis import Analysis, analyse

COCO_KEYPOINTS = coco_body().dataset_keypoints

SIGMAS = coco_body().sigmas

SIDE = 100.0

Change = Callable[[list[dict[str, Any]]], None]


def standing(x: float, y: float) -> np.ndarray[Any, Any]:
    """Returns the keypoints of a standing person of about 100 by 200 pixels."""
    half = {"eye": 6, "ear": 14, "shoulder": 32, "elbow": 48, "wrist": 54, "hip": 22}
    rows = {"nose": 12, "eye": 6, "ear": 8, "shoulder": 40, "elbow": 78, "wrist": 112, "hip": 108}
    half |= {"knee": 24, "ankle": 26}
    rows |= {"knee": 152, "ankle": 196}
    points = []
    for name in COCO_KEYPOINTS:
        side, _, part = name.rpartition("_")
        sign = {"left": 1, "right": -1, "": 0}[side]
        points.append((x + sign * half.get(part, 0), y + rows[part], 2))
    return np.array(points, np.float64)


def dataset(*people_per_image: int) -> CocoIndex:
    """Returns a dataset with people who stand side by side."""
    images = tuple(
        ImageRecord(number, f"{number}.jpg", 300, 4000)
        for number in range(1, len(people_per_image) + 1)
    )
    people = [
        {
            "image_id": image.image_id,
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": 17,
            "keypoints": standing(100 + 250 * column, 40).ravel().tolist(),
            "bbox": [50 + 250 * column, 40, 110, 200],
            "area": SIDE * 2 * SIDE,
        }
        for image, count in zip(images, people_per_image, strict=True)
        for column in range(count)
    ]
    return CocoIndex(images, images, people_of(people), len(images))


def found(index: CocoIndex) -> list[dict[str, Any]]:
    """Returns detections that are the labels."""
    return [
        {
            "image_id": person["image_id"],
            "category_id": 1,
            "keypoints": list(person["keypoints"]),
            "score": 1 - number / 1000,
        }
        for number, person in enumerate(index.ground_truth["annotations"])
    ]


def points(detection: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array(detection["keypoints"]).reshape(17, 3)


def counts(analysis: Analysis) -> dict[str, int]:
    return {error.name: error.count for error in analysis.errors if error.count}


def shift(name: str, pixels: float) -> Change:
    def change(detections: list[dict[str, Any]]) -> None:
        for detection in detections:
            detection["keypoints"][3 * COCO_KEYPOINTS.index(name)] += pixels

    return change


def invert(*names: str) -> Change:
    """Exchanges left and right of the named parts, or of all, in the first person."""

    def change(detections: list[dict[str, Any]]) -> None:
        before = points(detections[0])
        after = before.copy()
        for row, name in enumerate(COCO_KEYPOINTS):
            if not names or name.rpartition("_")[2] in names:
                after[row] = before[opposites(COCO_KEYPOINTS)[row]]
        detections[0]["keypoints"] = after.ravel().tolist()

    return change


def swap(name: str) -> Change:
    """Puts one keypoint of the first person on the second person."""

    def change(detections: list[dict[str, Any]]) -> None:
        place = slice(3 * COCO_KEYPOINTS.index(name), 3 * COCO_KEYPOINTS.index(name) + 3)
        detections[0]["keypoints"][place] = detections[1]["keypoints"][place]

    return change


def drop_keypoint(name: str) -> Change:
    def change(detections: list[dict[str, Any]]) -> None:
        place = slice(3 * COCO_KEYPOINTS.index(name), 3 * COCO_KEYPOINTS.index(name) + 3)
        detections[0]["keypoints"][place] = [0, 0, 0]

    return change


def add_background(detections: list[dict[str, Any]]) -> None:
    keypoints = standing(3900, 60).ravel().tolist()
    detections.append({**detections[0], "keypoints": keypoints, "score": 2.0})


def add_duplicate(detections: list[dict[str, Any]]) -> None:
    detections.append({**detections[0], "score": 0.1})


def drop_people_in_crowds(detections: list[dict[str, Any]]) -> None:
    del detections[-4:]


INDEX = dataset(1, 2, 1, 8)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: None, {}),
        (shift("left_wrist", 15), {"jitter": 12}),
        (shift("left_wrist", 55), {"missed": 12}),
        (invert("wrist"), {"inversion": 2}),
        (invert(), {"inversion": 16}),
        (drop_keypoint("nose"), {"missed": 1}),
        (add_background, {"background": 1}),
        (add_duplicate, {"duplicates": 1}),
        (drop_people_in_crowds, {"missed_people": 4}),
    ],
)
def test_each_kind_of_error_is_named_exactly(change: Change, expected: dict[str, int]) -> None:
    detections = found(INDEX)
    change(detections)
    assert counts(analyse(INDEX, detections)) == expected


def test_a_keypoint_on_another_person_is_a_swap() -> None:
    index = dataset(2)
    detections = found(index)
    swap("right_ankle")(detections)
    assert counts(analyse(index, detections)) == {"swap": 1}


def test_a_shifted_keypoint_costs_its_own_ap_and_no_other() -> None:
    detections = found(INDEX)
    shift("left_wrist", 55)(detections)
    figures = {one.name: one.ap for one in analyse(INDEX, detections).keypoints}
    assert figures.pop("left_wrist") < 0.2
    assert min(figures.values()) == pytest.approx(1)


def test_people_dropped_in_crowds_are_missed_in_the_crowded_group_only() -> None:
    detections = found(INDEX)
    drop_people_in_crowds(detections)
    groups = {one.name: one for one in analyse(INDEX, detections).crowding}
    assert {name: one.missed_people for name, one in groups.items()} == {
        "1 person": 0,
        "2 to 3 people": 0,
        "4 to 7 people": 0,
        "8 or more people": 4,
    }
    assert groups["8 or more people"].ap < 0.6
    assert groups["1 person"].ap == pytest.approx(1)
    assert groups["4 to 7 people"].ap == -1


def test_the_gain_of_a_kind_is_the_whole_loss_if_there_is_no_other_kind() -> None:
    for change in (shift("left_wrist", 55), invert(), add_background):
        detections = found(INDEX)
        change(detections)
        analysis = analyse(INDEX, detections)
        assert analysis.ap < 0.999
        assert analysis.ap + analysis.errors[0].ap_gain == pytest.approx(1)
        assert all(error.ap_gain == 0 for error in analysis.errors[1:])


def test_the_image_with_the_most_errors_comes_first_and_perfect_ones_are_left_out() -> None:
    detections = found(INDEX)
    shift("left_wrist", 15)(detections[:1])
    drop_people_in_crowds(detections)
    worst = analyse(INDEX, detections).images
    assert [(one.image_id, one.missed_people, one.wrong_keypoints) for one in worst] == [
        (4, 4, 0),
        (1, 0, 1),
    ]


def test_a_crowd_and_unlabelled_people_are_not_errors() -> None:
    crowd, unlabelled = dataset(1, 1).ground_truth["annotations"]
    crowd["iscrowd"] = 1
    unlabelled.update(num_keypoints=0, keypoints=[0] * 51)
    index = replace(dataset(1, 1), people=people_of([crowd, unlabelled]))
    analysis = analyse(index, found(dataset(1, 1)))
    assert (analysis.ap, counts(analysis)) == (-1, {})
    assert analysis.curves == ()


def test_no_detections_at_all_are_missed_people() -> None:
    analysis = analyse(INDEX, [])
    assert (analysis.ap, counts(analysis)) == (0, {"missed_people": 12})


@pytest.mark.parametrize("seed", range(5))
def test_matches_give_the_ap_of_pycocotools_to_the_last_bit(seed: int) -> None:
    noise = np.random.default_rng(seed)
    index = dataset(*noise.integers(0, 25, 12).tolist())
    people = index.ground_truth["annotations"]
    for person in people:
        person["area"] = float(noise.uniform(500, 40_000))
        person["iscrowd"] = int(noise.random() < 0.1)
        labelled = noise.random(17) < noise.random()
        person["keypoints"] = (points(person) * labelled[:, None]).astype(int).ravel().tolist()
        person["num_keypoints"] = int(labelled.sum())
    index = replace(index, people=people_of(people))
    detections = [one for one in found(dataset(*_sizes(index))) if noise.random() < 0.9]
    for detection in detections:
        moved = points(detection) + noise.normal(0, 8, (17, 3)) * (1, 1, 0)
        detection.update(keypoints=moved.ravel().tolist(), score=float(noise.integers(0, 50)))
    ids = [image.image_id for image in index.images]
    figures = coco_ap(index.ground_truth, detections, ids)
    people = index.ground_truth["annotations"]
    for area, name in zip(AREAS, ("AP", "APm", "APl"), strict=True):
        assert (
            PrecisionRecall(match(people, detections, ids, SIGMAS, area=area)).ap() == figures[name]
        )
    precision = PrecisionRecall(match(people, detections, ids, SIGMAS)).precision()
    assert precision is not None
    assert float(np.mean(precision[0])) == figures["AP50"]


def _sizes(index: CocoIndex) -> list[int]:
    people = [person["image_id"] for person in index.ground_truth["annotations"]]
    return [people.count(image.image_id) for image in index.images]


def test_weights_of_images_count_as_repeated_images_do() -> None:
    detections = found(INDEX)
    shift("left_wrist", 30)(detections)
    drop_people_in_crowds(detections)
    ids = [image.image_id for image in INDEX.images]
    people = INDEX.ground_truth["annotations"]
    weighted = PrecisionRecall(match(people, detections, ids, SIGMAS)).ap(np.array([0, 1, 1, 0]))
    part = PrecisionRecall(
        match(people, [d for d in detections if d["image_id"] in {2, 3}], [2, 3], SIGMAS)
    )
    assert weighted == pytest.approx(part.ap(), abs=1e-12)


def test_the_first_kind_is_not_an_error() -> None:
    assert KEYPOINT_KINDS[0] == "good"
