"""Cuts the result of a shard down to some of its images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints

from distributed_pose.data.shards import keep_detections
from distributed_pose.records.shards import ShardResult
from distributed_pose.records.stages import Durations

# Names of the fields with one value per image; the annotation of each is `PerImage`.
_PER_IMAGE = tuple(
    name
    for name, hint in get_type_hints(ShardResult, include_extras=True).items()
    if hasattr(hint, "__metadata__")
)


def part_of(result: ShardResult, rows: Sequence[int]) -> ShardResult:
    """Returns some images of a result, with a share of its durations."""
    picked: dict[str, Any] = {name: _picked(getattr(result, name), rows) for name in _PER_IMAGE}
    ids = picked["image_ids"]
    return replace(
        result,
        **picked,
        detections=keep_detections(result.detections, ids),
        damaged=tuple(damage for damage in result.damaged if damage.image_id in ids),
        durations=_shared_out(result.durations, len(ids), len(result.image_ids)),
    )


_T = TypeVar("_T")


def _picked(values: Sequence[_T], rows: Sequence[int]) -> tuple[_T, ...]:
    """Returns the values in some rows, or an empty tuple if there are no values at all."""
    return tuple(values[row] for row in rows) if values else ()


def _shared_out(durations: Durations, part: int, whole: int) -> Durations:
    """Returns the durations of some images of a shard, in proportion to their number.

    The durations of a shard cannot be assigned to images, because a batch has one for all images.

    Args:
        durations: durations of the shard in nanoseconds, by stage.
        part: number of images to return the durations of.
        whole: number of images in the shard.
    """
    return {
        stage: tuple(time_ns * part // whole for time_ns in times_ns)
        for stage, times_ns in durations.items()
        if part
    }
