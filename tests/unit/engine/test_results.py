"""Answers of reducers about images that they could not group."""

from collections.abc import Mapping

import numpy as np
import pytest

from distributed_pose import ExecutionError
from distributed_pose.data.shards import list_shards, no_detections, pack_detections
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.results import check_reduction, with_failures
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.images import Damage, Failure, ImageRecord

IDS = (4, 5, 6)
(SHARD,) = list_shards([ImageRecord(number, f"{number}.jpg", 4, 6) for number in IDS], 3)
REPORT = WorkerReport(
    image_ids=(6, 4),
    encoded_bytes=(60, 40),
    failures=(Failure(5, "5.jpg", "no image"),),
    durations={},
    damaged=(Damage(4, "4.jpg", "cut"), Damage(6, "6.jpg", "cut")),
    digests=("six", "four"),
)


def reduction_of(
    detections: bytes | None = None, failures: Mapping[int, str] | None = None
) -> Reduction:
    return Reduction(
        image_ids=(6, 4),
        detections=no_detections() if detections is None else detections,
        durations={},
        failures=failures or {},
    )


def test_images_that_were_not_grouped_are_failures_and_the_others_keep_their_results() -> None:
    reduction = reduction_of(failures={6: "no poses"})
    check_reduction(REPORT, reduction)
    found = with_failures(SHARD, REPORT, reduction)
    assert (found.image_ids, found.encoded_bytes, found.digests) == ((4,), (40,), ("four",))
    assert found.failures == (Failure(5, "5.jpg", "no image"), Failure(6, "6.jpg", "no poses"))
    assert found.damaged == (Damage(4, "4.jpg", "cut"),)


def test_a_report_stays_as_it_is_if_all_images_were_grouped() -> None:
    assert with_failures(SHARD, REPORT, reduction_of()) is REPORT


def test_a_failure_of_another_image_or_of_one_with_people_is_refused() -> None:
    strange = reduction_of(failures={5: "no poses"})
    with pytest.raises(ExecutionError, match=r"failed with images \[5\], which it was not given"):
        check_reduction(REPORT, strange)
    people = pack_detections(np.array([6]), Poses(np.zeros((1, 51)), np.ones(1)))
    both = reduction_of(people, {6: "no poses"})
    with pytest.raises(ExecutionError, match=r"people in images \[6\], which it failed with"):
        check_reduction(REPORT, both)
