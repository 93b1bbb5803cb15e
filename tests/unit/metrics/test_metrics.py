"""COCO figures of small data sets, and the throughput, latency and stage figures of a run."""

import copy
from array import array
from typing import Any

import pytest

from distributed_pose.metrics.coco_ap import FIGURES, coco_ap
from distributed_pose.metrics.throughput import (
    StageFigures,
    best_batch_size,
    images_per_s,
    latency_figures,
    stage_figures,
)

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


def test_the_ground_truth_itself_has_ap_1_and_figures_of_absent_sizes_are_undefined() -> None:
    figures = coco_ap(truth(), [detection(1), detection(2)], [1, 2])
    assert tuple(figures) == FIGURES
    assert figures["AP"] == figures["APm"] == figures["AR75"] == pytest.approx(1)
    assert figures["APl"] == -1


def test_figures_without_detections_are_0_unless_they_are_undefined() -> None:
    figures = coco_ap(truth(), [], [1, 2])
    undefined = {"APl", "ARl"}
    assert figures == {name: -1 if name in undefined else 0 for name in FIGURES}


def test_people_without_labelled_keypoints_do_not_count_as_missed() -> None:
    unlabelled = truth()
    unlabelled["annotations"][1].update(num_keypoints=0, keypoints=[0] * 51)
    assert coco_ap(unlabelled, [detection(1)], [1, 2])["AR"] == pytest.approx(1)


@pytest.mark.parametrize(("image_ids", "recall"), [([1, 2], 0.5), ([1], 1.0)])
def test_only_the_given_images_count(image_ids: list[int], recall: float) -> None:
    assert coco_ap(truth(), [detection(1)], image_ids)["AR"] == pytest.approx(recall)


def test_arguments_are_not_changed_and_nothing_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    annotations, detections = truth(), [detection(1)]
    before = copy.deepcopy((annotations, detections))
    coco_ap(annotations, detections, [1, 2])
    assert (annotations, detections) == before
    assert not capsys.readouterr().out


def test_a_stage_without_durations_has_figures_of_zero() -> None:
    figures = stage_figures({"read": array("q", range(90)), "score": array("q")})
    assert (figures["read"].count, figures["read"].total_ns) == (90, sum(range(90)))
    assert figures["score"] == StageFigures(
        count=0, total_ns=0, p50_ns=0, p90_ns=0, p99_ns=0, min_ns=0, max_ns=0
    )


def test_percentiles_do_not_depend_on_the_order_of_the_durations() -> None:
    figures = stage_figures({"peaks": [*range(100, -1, -1)]})["peaks"]
    assert figures == StageFigures(
        count=101, total_ns=5050, p50_ns=50, p90_ns=90, p99_ns=99, min_ns=0, max_ns=100
    )


def test_throughput_is_images_over_time() -> None:
    assert images_per_s(50, 2 * 10**9) == 25
    assert images_per_s(0, 0) == images_per_s(7, 0) == 0


def test_latency_figures_are_in_milliseconds_and_images_per_second() -> None:
    compute_ns = [10_000_000, 20_000_000, 30_000_000, 40_000_000]
    latencies_ns = [time_ns + 2_000_000 for time_ns in compute_ns]
    figures = latency_figures(4, compute_ns, latencies_ns, wall_ns=102_000_000)
    assert (figures.batch_size, figures.count) == (4, 4)
    assert (figures.min_ms, figures.median_ms, figures.mean_ms, figures.max_ms) == (10, 25, 25, 40)
    assert figures.median_ms < figures.p90_ms < figures.p99_ms < figures.max_ms
    assert figures.images_per_s == pytest.approx(4 / 0.025)
    assert figures.latency_median_ms == pytest.approx(figures.median_ms + 2)
    assert figures.latency_p99_ms == pytest.approx(figures.p99_ms + 2)
    assert figures.throughput_images_per_s == pytest.approx(16 / 0.102)


# Ascend 310P3: published images per second by batch size.
PUBLISHED = {1: 712.16, 4: 887.45, 8: 837.97, 16: 873.55, 32: 880.94, 64: 566.44}


def test_the_best_batch_size_is_not_the_largest() -> None:
    times_ns = {size: [round(size / rate * 1e9)] for size, rate in PUBLISHED.items()}
    assert best_batch_size(times_ns) == 4


@pytest.mark.parametrize(
    ("times_ns", "best"),
    [
        ({1: [100]}, 1),
        ({1: [100], 8: [800]}, 1),
        ({1: [101], 8: [800]}, 1),
        ({1: [110], 8: [800]}, 8),
        # A single disturbed batch does not change the median.
        ({1: [100, 100, 100], 2: [150, 150, 9000]}, 2),
    ],
)
def test_the_smallest_of_equally_fast_batch_sizes_is_best(
    times_ns: dict[int, list[int]], best: int
) -> None:
    assert best_batch_size(times_ns) == best
