"""Detections in columns are returned exactly and in canonical order."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_pose.data import detections
from distributed_pose.data.detections import DetectionsStore
from distributed_pose.data.shards import pack_detections, unpack_detections
from distributed_pose.metrics.coco_ap import coco_results
from distributed_pose.pose.assemble import Poses

# Centres of pixels, and values that do not fit into sixteen bits or change sign there.
VALUES = st.one_of(
    st.integers(-3, 2000).map(lambda value: value + 0.5),
    st.sampled_from([0.0, -0.0, 1.0, 16_383.5, 16_384.0, -16_384.0, -16_384.5, 0.25]),
    st.floats(-1e6, 1e6),
)


@st.composite
def batches(draw: st.DrawFn) -> list[bytes]:
    """Returns serialised detections of a few images, with tied scores and equal keypoints."""
    packed = []
    for _ in range(draw(st.integers(0, 6))):
        number = draw(st.integers(0, 5))
        ids = [draw(st.integers(-2, 3)) for _ in range(number)]
        keypoints = [[draw(VALUES)] * 50 + [draw(VALUES)] for _ in range(number)]
        scores = [draw(st.sampled_from([0.5, 1.0, 1 / 3])) for _ in range(number)]
        poses = Poses(np.array(keypoints, np.float64).reshape(-1, 51), np.array(scores, np.float64))
        packed.append(pack_detections(np.array(ids, np.int64), poses))
    return packed


def collected(packed: list[bytes]) -> list[dict[str, Any]]:
    store = DetectionsStore()
    for one in packed:
        store.add(one)
    found = store.in_canonical_order()
    assert len(found) == len([*found])
    return [*found]


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(1, 3))
def test_detections_come_back_exactly_and_in_canonical_order(
    packed: list[bytes], per_chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detections, "_BATCHES_PER_CHUNK", per_chunk)
        patch.setattr(detections, "_ROWS_AT_ONCE", 4)
        found = collected(packed)
    expected = coco_results(row for one in packed for row in unpack_detections(one))
    # As text, in which 0.0 and -0.0 differ.
    assert json.dumps(found) == json.dumps(expected)


def test_a_detection_of_the_decoder_takes_little_memory() -> None:
    keypoints = np.arange(51 * 100.0).reshape(-1, 51) + 0.5
    store = DetectionsStore()
    for _ in range(256):
        ids = np.arange(100)
        store.add(pack_detections(ids, Poses(keypoints, np.ones(100))))
    (chunk,) = store._chunks
    columns = (chunk.image_ids_P, chunk.scores_P, chunk.values_PV)
    assert sum(column.nbytes for column in columns) == 256 * 100 * (8 + 8 + 2 * 51)
