"""The labelled people of a dataset in compact columns, as COCO's evaluation reads them.

Array legend: N people, V values of a person's keypoints, 4 of a bounding box.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.metrics.coco_ap import PERSON_CATEGORY

# People that are made into rows at once; they take a megabyte.
_ROWS_AT_ONCE = 512

_SMALLER = {"i": (np.int16, np.int32), "f": (np.float32,), "b": (np.int8,)}


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """People in the order of the annotation file; one takes about 150 bytes.

    The columns have the smallest type that holds all of their values exactly.

    Attributes:
        image_ids_N: ids of the images.
        is_crowd_N: 1 for people that are a crowd, or else 0.
        num_keypoints_N: numbers of labelled keypoints, as the file has them.
        keypoints_NV: x, y and visibility of each keypoint.
        boxes_N4: x, y, width and height of the bounding boxes.
        areas_N: areas of the people in square pixels.
    """

    image_ids_N: npt.NDArray[np.int64]
    is_crowd_N: npt.NDArray[Any]
    num_keypoints_N: npt.NDArray[Any]
    keypoints_NV: npt.NDArray[Any]
    boxes_N4: npt.NDArray[Any]
    areas_N: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.image_ids_N)

    def rows(self, numbers: npt.NDArray[np.intp] | None = None) -> Iterator[dict[str, Any]]:
        """Yields people in COCO's format, with their position, counted from 1, as annotation id.

        COCO's code reads a match with id 0 as no match.

        Args:
            numbers: positions of the people; None for all.
        """
        chosen = np.arange(len(self)) if numbers is None else numbers
        for start in range(0, len(chosen), _ROWS_AT_ONCE):
            part = chosen[start : start + _ROWS_AT_ONCE]
            columns = (getattr(self, name)[part].tolist() for name in _COLUMNS)
            for number, *values in zip((part + 1).tolist(), *columns, strict=True):
                row = dict(zip(_COLUMNS.values(), values, strict=True))
                yield {**row, "id": number, "category_id": PERSON_CATEGORY}

    def of_images(self, image_ids: npt.ArrayLike) -> "People":
        """Returns the people of some images."""
        is_kept = np.isin(self.image_ids_N, np.asarray(image_ids, np.int64))
        return People(**{name: getattr(self, name)[is_kept] for name in _COLUMNS})

    def repeated(self, image_ids: Sequence[npt.NDArray[np.int64]]) -> "People":
        """Returns the people several times in a row.

        Args:
            image_ids: image ids of all people, one array for each time.
        """
        repeats = {
            name: np.concatenate([getattr(self, name)] * len(image_ids))
            for name in _COLUMNS
            if name != "image_ids_N"
        }
        return People(image_ids_N=np.concatenate(image_ids), **repeats)


# The key of each column in COCO's format.
_COLUMNS = {
    "image_ids_N": "image_id",
    "is_crowd_N": "iscrowd",
    "num_keypoints_N": "num_keypoints",
    "keypoints_NV": "keypoints",
    "boxes_N4": "bbox",
    "areas_N": "area",
}


class PeopleByImage:
    """People that are looked up by their images.

    Args:
        people: people of all images.
    """

    def __init__(self, people: People) -> None:
        self._people = people
        # Stable, because the order of an image's people decides between equal matches.
        self._order = np.argsort(people.image_ids_N, kind="stable")
        self._sorted_ids = people.image_ids_N[self._order]

    def rows(self, image_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yields the people in some images in COCO's format; see `People.rows`.

        Args:
            image_ids: ids of the images, ascending.
        """
        ids = np.array(image_ids, np.int64)
        starts = np.searchsorted(self._sorted_ids, ids, side="left")
        ends = np.searchsorted(self._sorted_ids, ids, side="right")
        places = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        return self._people.rows(self._order[np.concatenate(places)])


def people_of(rows: Sequence[Mapping[str, Any]]) -> People:
    """Returns the columns of people in COCO's format; their annotation ids are not kept."""
    columns = {name: _column([row[key] for row in rows]) for name, key in _COLUMNS.items()}
    ids = np.array([row["image_id"] for row in rows], np.int64)
    return People(**{**columns, "image_ids_N": ids})


def _column(values: Sequence[Any]) -> npt.NDArray[Any]:
    """Returns an array of the smallest type that holds all values exactly."""
    array = np.array(values)
    for dtype in _SMALLER.get(array.dtype.kind, ()):
        # A number that does not fit becomes another one, which the comparison finds.
        with np.errstate(over="ignore"):
            smaller = array.astype(dtype)
        if np.array_equal(smaller, array):
            return smaller
    return array
