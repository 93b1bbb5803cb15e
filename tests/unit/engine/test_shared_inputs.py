"""Network inputs pass through shared memory unchanged, and memory is used again once it is free."""

import gc
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from distributed_pose.data.shards import read_shards
from distributed_pose.data.sources import FolderImages
from distributed_pose.engine.host_stages import HostStages
from distributed_pose.engine.preparation import Preparation, Prepared, input_shapes
from distributed_pose.engine.shared_inputs import (
    ALIGNMENT_BYTES,
    CAN_SHARE,
    Allocator,
    SegmentPool,
    SegmentViews,
    found,
    placed,
    room_bytes,
)
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.records.images import ImageRecord
from distributed_pose.vision.profiles import PROFILES

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="this system has no memfd_create")


def images(folder: Path) -> pa.RecordBatch:
    """Returns images of several sizes, of which every third cannot be decoded, and a huge one."""
    records = []
    for number in range(9):
        height, width = 40 + 10 * (number % 2), 60 + 30 * (number % 4)
        encoded = cv2.imencode(".png", np.full((height, width, 3), 20 * number, np.uint8))[1]
        content = encoded.tobytes() if number % 3 else b"no picture"
        (folder / f"{number}.png").write_bytes(content)
        records.append(ImageRecord(number, f"{number}.png", height, width))
    records.append(ImageRecord(9, "8.png", 2, 20_000_000))
    (shard,) = read_shards(records, FolderImages(folder), 10)
    return shard.images


def in_bytes(prepared: Prepared) -> list[tuple[object, ...]]:
    return [
        (one.image_ids, one.geometries, one.inputs_N3HW.shape, one.inputs_N3HW.tobytes())
        for one in prepared.batches
    ]


@pytest.mark.parametrize("profile", ["modelzoo", "upstream", "uint8"])
def test_inputs_in_shared_memory_are_those_of_any_memory(tmp_path: Path, profile: str) -> None:
    shard, known = images(tmp_path), PROFILES[profile]
    preparation = Preparation(known, HostStages(coco_body()), None)
    expected = preparation.prepare(shard, 4)
    size_bytes = room_bytes(input_shapes(shard, [known]), known.input_dtype)
    assert size_bytes < 2**26
    segment, memory = SegmentPool().take(size_bytes)
    written = SegmentViews().memory(segment)
    sent, batches = placed(preparation.prepare(shard, 4, Allocator(written).array), written)
    assert sent.batches == []
    received = found(sent, batches, memory)
    assert in_bytes(received) == in_bytes(expected)
    assert [one.image_id for one in received.failures] == [one.image_id for one in sent.failures]
    for batch in received.batches:
        assert batch.inputs_N3HW.flags.c_contiguous
        assert not batch.inputs_N3HW.flags.writeable
        assert batch.inputs_N3HW.ctypes.data % ALIGNMENT_BYTES == 0


def test_memory_is_used_again_only_when_no_view_of_it_is_left() -> None:
    pool = SegmentPool()
    first, memory = pool.take(1000)
    view = memory[100:200].view(np.float32).reshape(5, 5)
    del memory
    second, other = pool.take(1000)
    assert second.path != first.path
    del view
    gc.collect()
    third, _ = pool.take(500)
    assert third == first
    assert len(other) == 1000


def test_memory_that_is_too_small_grows_and_other_processes_see_it() -> None:
    pool, views = SegmentPool(), SegmentViews()
    small, memory = pool.take(10)
    views.memory(small)[:] = 1
    del memory
    gc.collect()
    large, memory = pool.take(100_000)
    assert large.path == small.path
    views.memory(large)[-1] = 7
    assert (memory[0], memory[-1]) == (1, 7)
