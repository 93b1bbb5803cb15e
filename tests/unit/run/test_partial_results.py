"""A part of a shard's result has the values of its own images in every field."""

from dataclasses import fields

import numpy as np

from distributed_pose.data.shards import detected_images, pack_detections
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.images import Damage, Failure
from distributed_pose.records.shards import ShardResult, ShardTimes
from distributed_pose.run.partial_results import part_of

# Fields of a whole shard, which a part keeps.
KEPT = {"device", "failures", "times"}


def whole() -> ShardResult:
    """Returns the result of three images, with a value in every field."""
    ids = np.array([1, 2, 3])
    return ShardResult(
        device="cpu:0",
        image_ids=(1, 2, 3),
        detections=pack_detections(ids, Poses(np.ones((3, 51)), np.arange(3.0))),
        failures=(Failure(4, "4.jpg", "broken"),),
        durations={"compute": (300, 600)},
        encoded_bytes=(10, 20, 30),
        damaged=(Damage(1, "1.jpg", "cut"), Damage(3, "3.jpg", "cut")),
        digests=("a", "b", "c"),
        stamps=("x", "y", "z"),
        times=ShardTimes(1.0, 2.0),
    )


def test_each_field_is_cut_down_to_the_images_of_the_part() -> None:
    result = whole()
    # A new field must have a value here, and a decision whether a part of it is kept.
    names = [field.name for field in fields(ShardResult)]
    assert [name for name in names if not getattr(result, name)] == []
    part = part_of(result, [2, 1])
    assert {name for name in names if getattr(part, name) == getattr(result, name)} == KEPT
    assert (part.image_ids, part.encoded_bytes) == ((3, 2), (30, 20))
    assert (part.digests, part.stamps) == (("c", "b"), ("z", "y"))
    assert part.damaged == (Damage(3, "3.jpg", "cut"),)
    assert part.durations == {"compute": (200, 400)}
    assert detected_images(part.detections) == {2, 3}


def test_values_that_no_image_has_stay_unknown() -> None:
    result = ShardResult(device="cpu:0", image_ids=(1, 2), detections=whole().detections)
    assert part_of(result, [0]).digests == ()
