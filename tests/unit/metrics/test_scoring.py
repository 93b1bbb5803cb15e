"""Both scoring libraries have the same figures, and the size of a run decides between them."""

import sys
import tracemalloc
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hotcoco import StreamingEval

from distributed_pose.data.detections import Detections, DetectionsStore
from distributed_pose.data.shards import pack_detections
from distributed_pose.metrics.coco_ap import coco_ap
from distributed_pose.metrics.fast_ap import fast_ap, figures_of, matched
from distributed_pose.metrics.ground_truth import people_of
from distributed_pose.metrics.reference_ap import reference_ap
from distributed_pose.metrics.scoring import score
from distributed_pose.pose.assemble import Poses

# Ids that no library takes as they are, and of which one is in a later group than its neighbours.
IDS = [-(2**63), -5, 0, *range(7, 9000, 2), 2**63 - 1]


def truth(ids: list[int]) -> dict[str, Any]:
    rng = np.random.default_rng(len(ids))
    people = []
    for number, image_id in enumerate(rng.choice(np.array(ids), 2 * len(ids)).tolist(), 1):
        points = np.column_stack([rng.integers(0, 300, (17, 2)), rng.integers(0, 3, 17)])
        people.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": int(rng.random() < 0.1),
                "num_keypoints": int((points[:, 2] > 0).sum()) * int(rng.random() < 0.9),
                "keypoints": points.ravel().tolist(),
                "bbox": [10.5, 20, 80, 64],
                "area": float(rng.integers(0, 20_000)),
            }
        )
    images = [{"id": image_id, "height": 300, "width": 300} for image_id in ids]
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}


def found(ground_truth: dict[str, Any], share: float = 0.8) -> Detections:
    """Returns detections beside some of the people, with many tied scores."""
    rng = np.random.default_rng(1)
    people = [one for one in ground_truth["annotations"] if rng.random() < share]
    exact = np.array([one["keypoints"] for one in people], np.float64).reshape(-1, 51)
    keypoints = exact + rng.normal(0, 2, exact.shape).round()
    scores = rng.integers(1, 6, len(people)).astype(np.float64)
    store = DetectionsStore()
    ids = np.array([one["image_id"] for one in people], np.int64)
    store.add(pack_detections(ids, Poses(keypoints, scores)))
    return store.in_canonical_order()


@pytest.fixture(scope="module")
def ground_truth() -> dict[str, Any]:
    return truth(IDS)


@pytest.fixture(scope="module")
def detections(ground_truth: dict[str, Any]) -> Detections:
    return found(ground_truth)


def test_a_large_run_is_scored_by_the_faster_library_with_the_same_figures(
    ground_truth: dict[str, Any], detections: Detections
) -> None:
    expected = coco_ap(ground_truth, detections, IDS)
    assert 0.1 < expected["AP"] < 0.9
    large, small = (
        score(people_of(ground_truth["annotations"]), detections, IDS, limit)
        for limit in (100, 10_000)
    )
    assert large.figures == small.figures == expected
    assert large.scorer.startswith("hotcoco ")
    assert "equal to pycocotools" in large.scorer
    assert small.scorer.startswith("pycocotools ")
    assert "," not in small.scorer


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_merged_matches_of_parts_have_the_figures_of_the_whole(
    ground_truth: dict[str, Any], detections: Detections, parts: int
) -> None:
    ids = sorted(image["id"] for image in ground_truth["images"])
    people = people_of(ground_truth["annotations"])
    size = -(-len(ids) // parts)
    matches = [
        matched(people, detections, ids[start : start + size], start)
        for start in range(0, len(ids), size)
    ]
    assert figures_of(StreamingEval.merge(matches)) == fast_ap(people, detections, ids)


def test_pycocotools_has_the_figures_of_all_images_at_once_when_it_evaluates_groups() -> None:
    # Groups without anybody, without detections, and with more detections per image than count.
    few = truth([-3, *range(1000, 1040), 5000])
    crowded = [row for row in found(few, 1.0) for _ in range(1 + 40 * (row["image_id"] == 1001))]
    ids = [-3, *range(5001)]
    everyone = {**few, "images": [{"id": image_id} for image_id in ids]}
    for rows in (crowded, [row for row in crowded if row["image_id"] < 1020], []):
        assert reference_ap(people_of(few["annotations"]), rows, ids) == coco_ap(
            everyone, rows, ids
        )


@pytest.mark.slow
def test_pycocotools_keeps_less_than_a_kilobyte_per_image() -> None:
    def peak_bytes(num_images: int) -> int:
        labelled = truth([*range(num_images)])
        rows, people = found(labelled), people_of(labelled["annotations"])
        tracemalloc.start()
        reference_ap(people, rows, range(num_images))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak_bytes(2048) - peak_bytes(1024) < 1024 * 1000


def test_only_the_given_images_count_in_either_library(
    ground_truth: dict[str, Any], detections: Detections
) -> None:
    part = IDS[::3]
    assert fast_ap(people_of(ground_truth["annotations"]), detections, part) == coco_ap(
        ground_truth, detections, part
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_runs_without_detections_have_the_same_figures_in_either_library(share: float) -> None:
    few = truth([1, 2])
    rows = found(few, share)
    assert fast_ap(people_of(few["annotations"]), rows, [1, 2]) == coco_ap(few, rows, [1, 2])


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    few = truth([1, 2])
    fast_ap(people_of(few["annotations"]), found(few), [1, 2])
    assert capfd.readouterr().out == ""


class OtherEval:
    """A library with other figures."""

    stats = (0.5,) * 10

    def __init__(self, *_: object, **_named: object) -> None: ...

    def update(self, *_: object) -> None: ...

    def accumulate(self) -> None: ...

    def summarize(self) -> None: ...

    def finalize(self) -> "OtherEval":
        return self


class BrokenEval(OtherEval):
    def finalize(self) -> OtherEval:
        raise TypeError("no such\ntype")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (OtherEval, "hotcoco differs from pycocotools on 20 images"),
        (BrokenEval, "hotcoco fails: no such type"),
        (None, "hotcoco is not installed"),
    ],
)
def test_pycocotools_scores_where_the_faster_library_is_of_no_use(
    kind: type[OtherEval] | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if kind:
        module = ModuleType("hotcoco")
        module.StreamingEval = kind  # type: ignore[attr-defined]
        module.Params = lambda _: SimpleNamespace()  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "hotcoco", module)
    monkeypatch.setattr("distributed_pose.metrics.scoring.is_installed", lambda _: bool(kind))
    few = truth([*range(20)])
    rows = found(few)
    scored = score(people_of(few["annotations"]), rows, [*range(20)], fast_from=10)
    assert scored.figures == coco_ap(few, rows, [*range(20)])
    assert scored.scorer.endswith(f", because {reason}")
    assert reason in caplog.text
