import copy
from typing import Any

import pytest

from distributed_pose.metrics.coco_ap import FIGURES, coco_ap
from distributed_pose.metrics.throughput import (
    StageFigures,
    images_per_s,
    merge,
    stage_figures,
)
from distributed_pose.records import STAGES

KEYPOINTS = [v for i in range(17) for v in (10 + 5 * i, 20 + 4 * i, 2)]


def truth() -> dict[str, Any]:
    person = {
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": KEYPOINTS,
        "bbox": [10, 20, 80, 64],
        "area": 5000.0,
    }
    return {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{**person, "id": 10 + i, "image_id": i} for i in (1, 2)],
        "categories": [{"id": 1, "name": "person"}],
    }


def detection(image_id: int) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "keypoints": KEYPOINTS, "score": 1.0}


def test_the_truth_itself_has_an_ap_of_one_and_no_large_people_are_undefined() -> None:
    figures = coco_ap(truth(), [detection(1), detection(2)], [1, 2])
    assert tuple(figures) == FIGURES
    assert figures["AP"] == figures["APm"] == figures["AR75"] == pytest.approx(1)
    assert figures["APl"] == -1


def test_no_detections_are_zeros_but_for_what_is_undefined() -> None:
    figures = coco_ap(truth(), [], [1, 2])
    undefined = {"APl", "ARl"}
    assert figures == {name: -1 if name in undefined else 0 for name in FIGURES}


def test_people_without_labelled_keypoints_are_nothing_to_find() -> None:
    unlabelled = truth()
    unlabelled["annotations"][1].update(num_keypoints=0, keypoints=[0] * 51)
    assert coco_ap(unlabelled, [detection(1)], [1, 2])["AR"] == pytest.approx(1)


@pytest.mark.parametrize(("image_ids", "recall"), [([1, 2], 0.5), ([1], 1.0)])
def test_only_the_given_images_count(image_ids: list[int], recall: float) -> None:
    assert coco_ap(truth(), [detection(1)], image_ids)["AR"] == pytest.approx(recall)


def test_arguments_stay_as_they_are_and_nothing_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    annotations, detections = truth(), [detection(1)]
    before = copy.deepcopy((annotations, detections))
    coco_ap(annotations, detections, [1, 2])
    assert (annotations, detections) == before
    assert not capsys.readouterr().out


def test_stages_are_merged_raw_before_their_percentiles() -> None:
    merged = merge([{"read": (10,)}, {"read": tuple(range(90)), "peaks": (5, 5)}])
    figures = stage_figures(merged)
    assert tuple(figures) == STAGES
    assert (figures["read"].count, figures["read"].total_ns) == (91, 10 + sum(range(90)))
    assert figures["score"] == StageFigures(0, 0, 0, 0, 0)


def test_percentiles_are_of_all_durations_whatever_their_order() -> None:
    figures = stage_figures({"peaks": [*range(100, -1, -1)]})["peaks"]
    assert figures == StageFigures(101, 5050, 50, 90, 99)


def test_throughput_is_images_over_time() -> None:
    assert images_per_s(50, 2 * 10**9) == 25
    assert images_per_s(0, 0) == images_per_s(7, 0) == 0
