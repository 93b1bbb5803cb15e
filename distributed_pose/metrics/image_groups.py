"""Splits a run into groups of images, so that only the rows of one group are in memory."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from distributed_pose.metrics.ground_truth import People, PeopleByImage

# The rows of a person or detection take two kilobytes, and pycocotools needs several times as much.
_IMAGES_AT_ONCE = 512

_Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageGroup:
    """Images that are scored at once.

    Attributes:
        image_ids: ids of the images, ascending, and over those of earlier groups.
        people: people in the images, in COCO's format and in the order of the annotation file.
        detections: detections in the images, in canonical order.
    """

    image_ids: Sequence[int]
    people: list[dict[str, Any]]
    detections: Sequence[_Row]


def image_groups(
    people: People, detections: Iterable[_Row], image_ids: Sequence[int]
) -> Iterator[ImageGroup]:
    """Yields the images in groups of some hundred, by ascending image id.

    Args:
        people: people of the images, and of others, which are left out.
        detections: detections in canonical order, of the images and of others.
        image_ids: ids of the images.
    """
    ids = sorted(image_ids)
    labelled, found = PeopleByImage(people), _ById(detections)
    for start in range(0, len(ids), _IMAGES_AT_ONCE):
        part = ids[start : start + _IMAGES_AT_ONCE]
        yield ImageGroup(
            image_ids=part, people=[*labelled.rows(part)], detections=[*found.rows({*part})]
        )


class _ById:
    """Detections that are taken image by image.

    Args:
        detections: detections by ascending image id.
    """

    def __init__(self, detections: Iterable[_Row]) -> None:
        self._groups = groupby(detections, key=itemgetter("image_id"))
        self._ahead = next(self._groups, None)

    def rows(self, wanted: Collection[int]) -> Iterator[_Row]:
        """Yields the detections of some images, whose ids are over those of earlier calls."""
        last = max(wanted)
        while self._ahead and self._ahead[0] <= last:
            if self._ahead[0] in wanted:
                yield from self._ahead[1]
            self._ahead = next(self._groups, None)
