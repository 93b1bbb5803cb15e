"""Collects the detections of a run in compact columns, and gives them back in canonical order.

Array legend: P detections, V values of a detection's keypoints.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.data.shards import DETECTIONS, num_values
from distributed_pose.errors import ExecutionError
from distributed_pose.metrics.coco_ap import PERSON_CATEGORY

# Batches are joined in groups, because a batch of one shard takes more memory than its values.
_BATCHES_PER_CHUNK = 256

# Detections that are made into rows at once; they take a megabyte.
_ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Detections of some shards.

    Attributes:
        image_ids_P: ids of the images.
        scores_P: scores.
        values_PV: keypoints, or twice the keypoints if their type is an integer.
    """

    image_ids_P: npt.NDArray[np.int64]
    scores_P: npt.NDArray[np.float64]
    values_PV: npt.NDArray[np.float64] | npt.NDArray[np.int16]

    def keypoints(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Returns the keypoints of some detections, exactly as they were added."""
        factor = 0.5 if self.values_PV.dtype == np.int16 else 1.0
        return np.multiply(self.values_PV[rows], factor, dtype=np.float64)


class Detections(Collection[dict[str, Any]]):
    """Detections in COCO results format and in canonical order.

    AP depends on the order of tied scores, so the order must not depend on who came first: by
    image id, then score from high to low, then keypoints. Rows are made while they are iterated.

    Args:
        chunks: the detections in the order of their arrival.
        only: ids of the images whose detections count; None for all.
    """

    def __init__(self, chunks: Sequence[_Chunk], only: npt.ArrayLike | None = None) -> None:
        self._chunks = chunks
        self._num_values = chunks[0].values_PV.shape[1] if chunks else 0
        self._ends = np.cumsum([len(chunk.scores_P) for chunk in chunks], dtype=np.int64)
        self._image_ids = _joined([chunk.image_ids_P for chunk in chunks], np.int64)
        self._scores = _joined([chunk.scores_P for chunk in chunks], np.float64)
        self._order = np.lexsort((-self._scores, self._image_ids))
        if only is not None:
            is_wanted = np.isin(self._image_ids[self._order], np.asarray(only, np.int64))
            self._order = self._order[is_wanted]
        self._sort_ties()

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self._order), _ROWS_AT_ONCE):
            rows = self._order[start : start + _ROWS_AT_ONCE]
            columns = (self._image_ids[rows], self._scores[rows], self._keypoints(rows))
            for image_id, score, keypoints in zip(*(c.tolist() for c in columns), strict=True):
                yield {
                    "image_id": image_id,
                    "category_id": PERSON_CATEGORY,
                    "keypoints": keypoints,
                    "score": score,
                }

    def of_images(self, image_ids: npt.ArrayLike) -> "Detections":
        """Returns the detections in some images, without making rows of the others."""
        return Detections(self._chunks, image_ids)

    def __contains__(self, row: object) -> bool:
        return any(one == row for one in self)

    def _sort_ties(self) -> None:
        """Puts detections with the same image and score into the order of their keypoints."""
        ids, scores = self._image_ids[self._order], self._scores[self._order]
        is_tied = (ids[1:] == ids[:-1]) & (scores[1:] == scores[:-1])
        # Each run of ties begins where the pairs begin to be tied, and ends one place after them.
        edges = np.flatnonzero(np.diff(np.concatenate([[False], is_tied, [False]]).astype(np.int8)))
        for first, last in edges.reshape(-1, 2).tolist():
            rows = self._order[first : last + 1]
            keypoints = self._keypoints(rows).tolist()
            self._order[first : last + 1] = rows[
                sorted(range(len(rows)), key=keypoints.__getitem__)
            ]

    def _keypoints(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        numbers = np.searchsorted(self._ends, rows, side="right")
        keypoints = np.empty((len(rows), self._num_values))
        for number in np.unique(numbers).tolist():
            chunk, is_here = self._chunks[number], numbers == number
            first = int(self._ends[number]) - len(chunk.scores_P)
            keypoints[is_here] = chunk.keypoints(rows[is_here] - first)
        return keypoints


class DetectionsStore:
    """Collects serialised detections; one takes about 120 bytes."""

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._recent: list[bytes] = []

    def add(self, serialised: bytes) -> None:
        """Adds a serialised record batch with the schema `data.shards.DETECTIONS`."""
        self._recent.append(serialised)
        if len(self._recent) >= _BATCHES_PER_CHUNK:
            self._join()

    def in_canonical_order(self) -> Detections:
        """Returns the detections so far.

        Raises:
            ExecutionError: if they have different numbers of keypoints.
        """
        self._join()
        return Detections(self._chunks)

    def _join(self) -> None:
        recent, self._recent = self._recent, []
        batches = [pa.ipc.read_record_batch(one, DETECTIONS) for one in recent]
        table = pa.Table.from_batches(batches, DETECTIONS).combine_chunks()
        for batch in table.to_batches():
            ids, scores, keypoints = batch.columns
            values_PV = keypoints.flatten().to_numpy().reshape(-1, self._width(keypoints))
            # Copies, because views would keep the columns of the batch in memory.
            self._chunks.append(
                _Chunk(ids.to_numpy().copy(), scores.to_numpy().copy(), _narrowed(values_PV))
            )

    def _width(self, keypoints: pa.ListArray) -> int:
        try:
            width = num_values(keypoints)
        except ValueError as error:
            raise ExecutionError(str(error)) from None
        before = self._chunks[0].values_PV.shape[1] if self._chunks else width
        if width != before:
            raise ExecutionError(f"some detections have {before} values and others {width}")
        return width


def _narrowed(
    values_PV: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64] | npt.NDArray[np.int16]:
    """Returns twice the values as integers of 16 bits if that is exact, or else a copy."""
    # The decoder's coordinates are centres of pixels.
    doubled = values_PV * 2
    limits = np.iinfo(np.int16)
    if not ((doubled >= limits.min) & (doubled <= limits.max)).all():
        return values_PV.copy()
    narrow = doubled.astype(np.int16)
    has_negative_zero = bool((np.signbit(doubled) & (narrow == 0)).any())
    return values_PV.copy() if has_negative_zero or (narrow != doubled).any() else narrow


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
