"""Any number of feeders makes the same inputs, byte by byte."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from distributed_pose.data.shards import image_records, list_shards, read_shards
from distributed_pose.data.sources import FolderImages
from distributed_pose.engine.host_stages import HostStages
from distributed_pose.engine.preparation import Preparation, Prepared
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.records.images import ImageRecord
from distributed_pose.vision.profiles import PROFILES
from tests.conftest import Dataset
from tests.unit.engine.test_worker import shard_of

STAGES = HostStages(coco_body())


def prepared(preparation: Preparation, images: object, feeders: int) -> Prepared:
    preparation.feed(feeders)
    found = preparation.prepare(images, 4)
    preparation.close()
    return found


def in_bytes(found: Prepared) -> list[tuple[object, ...]]:
    return [(b.image_ids, b.geometries, b.inputs_N3HW.tobytes()) for b in found.batches]


@pytest.mark.parametrize("profile", ["modelzoo", "upstream", "uint8"])
def test_feeders_make_the_inputs_that_one_thread_makes(people: Dataset, profile: str) -> None:
    shard = shard_of(people)
    alone, together = (
        prepared(Preparation(PROFILES[profile], STAGES, None), shard.images, feeders)
        for feeders in (1, 7)
    )
    assert in_bytes(together) == in_bytes(alone)
    assert together.digests == alone.digests
    assert list(together.encoded_bytes) == list(alone.encoded_bytes)


def test_feeders_read_listed_images(people: Dataset) -> None:
    shard = shard_of(people)
    (listed,) = list_shards(image_records(shard.images), 12)
    source = FolderImages(people.images)
    sent = prepared(Preparation(PROFILES["uint8"], STAGES, None), shard.images, 1)
    read = prepared(Preparation(PROFILES["uint8"], STAGES, source), listed.images, 5)
    assert in_bytes(read) == in_bytes(sent)
    assert len(read.durations["read"]) == 12


@pytest.mark.parametrize("feeders", [1, 3])
def test_an_image_that_fails_leaves_its_batch(tmp_path: Path, feeders: int) -> None:
    records = []
    for number in range(8):
        image_HW3 = np.full((40, 60, 3), 20 * number, np.uint8)
        encoded = cv2.imencode(".png", image_HW3)[1].tobytes()
        (tmp_path / f"{number}.png").write_bytes(encoded if number % 3 else b"no picture")
        records.append(ImageRecord(number, f"{number}.png", 40, 60))
    records.append(ImageRecord(8, "7.png", 2, 20_000_000))
    (shard,) = read_shards(records, FolderImages(tmp_path), 9)
    found = prepared(Preparation(PROFILES["upstream"], STAGES, None), shard.images, feeders)
    assert [batch.image_ids for batch in found.batches] == [(1, 2), (4, 5, 7)]
    assert {failure.image_id for failure in found.failures} == {0, 3, 6, 8}
    for batch in found.batches:
        for image_id, input_3HW in zip(batch.image_ids, batch.inputs_N3HW, strict=True):
            expected = np.float32((20 * image_id - 128) / 256)
            assert input_3HW[:, 184, 184] == pytest.approx([expected] * 3, abs=1e-6)
