"""An image at several scales stays one image: it is prepared, counted and failed once."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from distributed_pose.data.shards import image_rows, read_shards, unpack_detections
from distributed_pose.data.sources import FolderImages
from distributed_pose.engine.host_stages import HostStages
from distributed_pose.engine.preparation import Preparation, Prepared
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.evaluation import evaluate
from distributed_pose.records.images import ImageRecord
from distributed_pose.vision.preprocess import network_input
from distributed_pose.vision.profiles import PROFILES
from tests.conftest import Dataset
from tests.unit.engine.test_worker import shard_of, worker_of

SCALES = (0.5, 1.0, 1.25)


def preparation(scales: tuple[float, ...] = SCALES) -> Preparation:
    return Preparation(PROFILES["upstream"], HostStages(), None, scales=scales)


def prepared(dataset: Dataset, feeders: int) -> Prepared:
    made = preparation()
    made.feed(feeders)
    found = made.prepare(shard_of(dataset, 6).images, 4)
    made.close()
    return found


@pytest.mark.parametrize("feeders", [1, 5])
def test_an_image_is_decoded_once_and_has_the_input_of_each_scale(
    people: Dataset, feeders: int
) -> None:
    found = prepared(people, feeders)
    profiles = PROFILES["upstream"].at_scales(SCALES)
    expected = {
        (record.image_id, scale): network_input(encoded, record, profile)
        for record, encoded in image_rows(shard_of(people, 6).images)
        for scale, profile in enumerate(profiles)
    }
    rows = [
        ((image_id, scale), input_3HW, geometry)
        for batch in found.batches
        for image_id, scale, input_3HW, geometry in zip(
            batch.image_ids, batch.scales, batch.inputs_N3HW, batch.geometries, strict=True
        )
    ]
    assert sorted(key for key, _, _ in rows) == sorted(expected)
    for key, input_3HW, geometry in rows:
        assert geometry == expected[key][1]
        assert input_3HW.tobytes() == expected[key][0].tobytes()
    assert {len(batch.image_ids) for batch in found.batches} <= {1, 2, 3, 4}
    assert {stage: len(times) for stage, times in found.durations.items()} == {
        "decode_jpeg": 6,
        "preprocess": 6,
    }


def test_an_image_fails_once_and_leaves_the_batches_of_all_scales(tmp_path: Path) -> None:
    records = [ImageRecord(number, f"{number}.png", 40, 60) for number in range(3)]
    # As wide as an input may be at scale 1, and so too wide at the others.
    records.append(ImageRecord(3, "3.png", 2, 200))
    for record in records:
        image_HW3 = np.full((record.height, record.width, 3), 90, np.uint8)
        encoded = cv2.imencode(".png", image_HW3)[1].tobytes()
        (tmp_path / record.file_name).write_bytes(
            b"no picture" if record.image_id == 1 else encoded
        )
    (shard,) = read_shards(records, FolderImages(tmp_path), 4)
    found = preparation((0.5, 1.0, 2.0)).prepare(shard.images, 8)
    assert sorted(failure.image_id for failure in found.failures) == [1, 3]
    assert sorted(found.digests) == [0, 2]
    assert {image_id for batch in found.batches for image_id in batch.image_ids} == {0, 2}
    assert sum(len(batch.image_ids) for batch in found.batches) == 6


def poses(dataset: Dataset, batch_size: int) -> tuple[Reduction, WorkerReport]:
    values = {"profile": "upstream", "scales": SCALES, "gather": "auto"}
    worker, _ = worker_of(dataset, batch_size=batch_size, **values)
    worker.start()
    found = worker.infer_and_group(shard_of(dataset, 4).images)
    worker.close()
    return found


def test_poses_of_several_scales_do_not_depend_on_the_batches(people: Dataset) -> None:
    single, report = poses(people, 1)
    together, _ = poses(people, 8)
    by_image = [
        sorted(map(repr, unpack_detections(reduction.detections)))
        for reduction in (single, together)
    ]
    assert by_image[0] == by_image[1] != []
    image_ids = shard_of(people, 4).image_ids
    assert sorted(report.image_ids) == sorted(single.image_ids) == sorted(image_ids)
    assert len(report.durations["compute"]) == 4 * len(SCALES)
    assert sum(images for images, *_ in report.batches) == 4


def test_a_run_counts_images_and_not_inputs(people: Dataset, tmp_path: Path) -> None:
    config = people.config(profile="upstream", scales=SCALES, gather="auto", data={"limit": 6})
    report = evaluate(config, tmp_path / "run")
    assert (report.num_images, report.devices[0].images, report.complete) == (6, 6, True)
    assert (report.gather, report.scales) == ("poses", SCALES)
    assert report.preprocessing == "profile upstream at 368x368 in scales 0.5, 1 and 1.25"
    assert report.ap is not None
    assert report.ap["AP"] > 0.95
