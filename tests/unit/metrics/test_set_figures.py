"""Figures and analysis use the keypoints and sigmas of the run's set."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from distributed_pose.data.coco import CocoIndex
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.metrics.coco_ap import FIGURES, coco_ap
from distributed_pose.metrics.error_kinds import KEYPOINT_KINDS, find_errors, opposites
from distributed_pose.metrics.fast_ap import fast_ap
from distributed_pose.metrics.ground_truth import people_of
from distributed_pose.metrics.scoring import score
from distributed_pose.records.images import ImageRecord
from distributed_pose.report.analysis import analyse
from tests.keypoint_sets import LEGS_YAML, random_set

IMAGES = tuple(ImageRecord(number, f"{number}.jpg", 640, 640) for number in range(1, 41))
IDS = [image.image_id for image in IMAGES]

Rows = list[dict[str, Any]]


class Listed(list[dict[str, Any]]):
    """Detections that are looked up by image."""

    def of_images(self, image_ids: list[int]) -> "Listed":
        return Listed(one for one in self if one["image_id"] in {*image_ids})


@pytest.fixture(scope="module")
def legs(tmp_path_factory: pytest.TempPathFactory) -> KeypointSet:
    path = tmp_path_factory.mktemp("set") / "legs.yaml"
    path.write_text(LEGS_YAML)
    return read_keypoint_set(path)


def scene(keypoints: KeypointSet, seed: int = 0) -> tuple[CocoIndex, Listed]:
    """Returns people of all sizes, crowds and unlabelled ones too, and detections near them."""
    random = np.random.default_rng(seed)
    number = keypoints.num_dataset_keypoints
    people: Rows = []
    found = Listed()
    for image_id in np.repeat(IDS, 3).tolist():
        points = np.zeros((number, 3))
        points[:, :2] = random.uniform(100, 500, 2) + random.normal(0, 60, (number, 2))
        points[:, 2] = random.integers(0, 3, number) * (random.random() < 0.9)
        labelled = int((points[:, 2] > 0).sum())
        people.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": int(random.random() < 0.05),
                "num_keypoints": labelled,
                "keypoints": (points * (points[:, 2:] > 0)).ravel().tolist(),
                "bbox": [*points[:, :2].min(axis=0).tolist(), 100.0, 100.0],
                "area": float(random.uniform(300, 30_000)),
            }
        )
        points[:, :2] += random.normal(0, random.uniform(0, 12), (number, 2))
        points[:, 2] = 1
        values = points.ravel().tolist()
        found.append({"image_id": image_id, "category_id": 1, "keypoints": values, "score": 0.0})
    scores = random.random(len(found)).tolist()
    found = Listed({**one, "score": value} for one, value in zip(found, scores, strict=True))
    found.sort(key=lambda one: (one["image_id"], -one["score"]))
    index = CocoIndex(IMAGES, IMAGES, people_of(people), len(IMAGES), keypoints=keypoints)
    return index, found


def by_pycocotools(index: CocoIndex, found: Rows, sigmas: tuple[float, ...]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = index.ground_truth
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([dict(one) for one in found]), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=True))


@pytest.mark.parametrize("size", [2, 6, 17, 100])
def test_figures_are_those_of_pycocotools_with_the_sigmas_of_the_set(size: int) -> None:
    keypoints = random_set(size, seed=size)
    index, found = scene(keypoints)
    expected = by_pycocotools(index, found, keypoints.sigmas)
    assert 0.1 < expected["AP"] < 0.99
    assert coco_ap(index.ground_truth, found, IDS, keypoints.sigmas) == expected
    assert fast_ap(index.people, found, IDS, keypoints.sigmas) == expected
    scored = score(index.people, found, IDS, fast_from=10, sigmas=keypoints.sigmas)
    assert scored.figures == expected
    assert scored.scorer.startswith("hotcoco ")


def test_other_sigmas_give_other_figures(legs: KeypointSet) -> None:
    index, found = scene(legs)
    narrow = tuple(sigma / 3 for sigma in legs.sigmas)
    wide, strict = (
        coco_ap(index.ground_truth, found, IDS, sigmas)["AP"] for sigmas in (legs.sigmas, narrow)
    )
    assert strict < wide - 0.1


def test_the_body_of_coco_has_the_figures_of_pycocotools_defaults() -> None:
    index, found = scene(coco_body())
    plain = coco_ap(index.ground_truth, found, IDS)
    assert coco_ap(index.ground_truth, found, IDS, coco_body().sigmas) == plain
    assert fast_ap(index.people, found, IDS, coco_body().sigmas) == plain


def test_an_analysis_has_the_keypoints_of_the_set_and_the_ap_of_the_run(legs: KeypointSet) -> None:
    index, found = scene(legs)
    analysis = analyse(index, found)
    assert analysis.ap == coco_ap(index.ground_truth, found, IDS, legs.sigmas)["AP"]
    assert [one.name for one in analysis.keypoints] == [*legs.dataset_keypoints]
    # The tolerance of ankles is four times that of knees.
    aps = {one.name: one.ap for one in analysis.keypoints}
    assert aps["left_ankle"] > aps["left_knee"] + 0.1


def test_keypoints_on_the_other_side_are_inversions(legs: KeypointSet) -> None:
    index, _ = scene(legs)
    truth = index.ground_truth["annotations"]
    people = [one for one in truth if one["num_keypoints"] == 6 and not one["iscrowd"]]
    other = opposites(legs.dataset_keypoints)
    swapped = [
        {
            **{key: one[key] for key in ("image_id", "category_id")},
            "keypoints": np.reshape(one["keypoints"], (-1, 3))[other].ravel().tolist(),
            "score": 1.0,
        }
        for one in people
    ]
    assert len(swapped) > 5
    kinds = find_errors(truth, swapped, IDS, legs).kind_MK
    assert (kinds == KEYPOINT_KINDS.index("inversion")).sum() > 0.9 * kinds.size


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("nose", "left_eye", "right_eye"), [0, 2, 1]),
        (("RightHandTip", "LeftHandTip", "Tail"), [1, 0, 2]),
        (("knee.L", "knee.R", "l-ear", "r-ear"), [1, 0, 3, 2]),
        (("left_eye", "right_ear", "upright", "leftover"), [0, 1, 2, 3]),
        (("paw 1 left", "paw 2 left", "paw 2 right", "paw 1 right"), [3, 2, 1, 0]),
    ],
)
def test_counterparts_are_found_by_name(names: tuple[str, ...], expected: list[int]) -> None:
    assert opposites(names).tolist() == expected
