"""The demo's network keeps its accuracy in int8."""

from pathlib import Path

import pytest

from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.openvino import OpenVinoBackend
from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.demo.dataset import write_dataset
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.metrics.coco_ap import coco_ap
from distributed_pose.model.quantise import quantise
from distributed_pose.pose.decode import Decoder
from distributed_pose.vision.decode import decode_image
from distributed_pose.vision.preprocess import preprocess
from distributed_pose.vision.profiles import PROFILES
from tests.checkpoints import exported
from tests.conftest import Dataset
from tests.int8_models import needs_int8, needs_nncf

AP_TOLERANCE = 0.02
NUM_CALIBRATION_IMAGES = 8


def load(dataset: Dataset) -> tuple[CocoIndex, list[InputBatch]]:
    """Returns the index of a dataset and one batch per image."""
    index, batches = load_index(dataset.annotations), []
    for image in index.images:
        encoded = (dataset.images / image.file_name).read_bytes()
        decoded, _ = decode_image(encoded, image.height, image.width)
        input_3HW, geometry = preprocess(decoded, PROFILES["modelzoo"])
        batches.append(InputBatch((image.image_id,), (geometry,), input_3HW[None]))
    return index, batches


def average_precision(backend: OpenVinoBackend, dataset: Dataset) -> float:
    index, batches = load(dataset)
    decoder, detections = Decoder(coco_body()), []
    for batch in batches:
        poses = decoder.decode_batch(*backend.infer(batch), batch.geometries).poses
        for keypoints_51, score in zip(*poses, strict=True):
            entry = {"image_id": batch.image_ids[0], "category_id": 1, "score": float(score)}
            detections.append({**entry, "keypoints": keypoints_51.tolist()})
    ids = [image.image_id for image in index.images]
    return coco_ap(index.ground_truth, detections, ids)["AP"]


@pytest.mark.slow
@needs_nncf
@needs_int8
def test_int8_keeps_the_accuracy_of_the_demo(people: Dataset, tmp_path: Path) -> None:
    network = exported(WEIGHTS)
    written = write_dataset(tmp_path, NUM_CALIBRATION_IMAGES, seed=8)
    _, calibration = load(Dataset(written.images, written.annotations))
    int8 = quantise(network, [batch.inputs_N3HW for batch in calibration])
    exact, rounded = (
        OpenVinoBackend(content, BackendOptions(precision, threads=2))
        for content, precision in ((network, "f32"), (int8, "int8"))
    )
    expected = average_precision(exact, people)
    assert expected > 0.5
    assert average_precision(rounded, people) == pytest.approx(expected, abs=AP_TOLERANCE)
