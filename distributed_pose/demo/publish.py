"""Turns a training checkpoint into the weights of the package, with a card that describes them.

    python -m distributed_pose.demo.publish --run DIR --date YYYY-MM-DD
    python -m distributed_pose.demo.publish --run DIR --date YYYY-MM-DD \
        --keypoints FILE --weights OUT.onnx

The averaged weights are rounded to half precision, and the rounded weights are scored on the demo
dataset and written as an ONNX file that any runtime runs, under the tensor names of the published
checkpoint.
"""

import argparse
import datetime as dt
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distributed_pose.demo.dataset import (
    DEFAULT_NUM_IMAGES,
    DEFAULT_SEED,
    FIRST_TRAINING_SEED,
    RENDERER_VERSION,
    write_dataset,
)
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.demo.train import CHECKPOINT, command, read_checkpoint
from distributed_pose.errors import PoseEvalError
from distributed_pose.files.local import sha256_hex, write_atomically
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.metrics.coco_ap import PERSON_CATEGORY, coco_ap
from distributed_pose.model.architecture import Weights
from distributed_pose.model.checkpoint import load_checkpoint
from distributed_pose.model.export import write_checkpoint
from distributed_pose.model.network import LightweightOpenPose, network_of
from distributed_pose.pose.decode import Decoder
from distributed_pose.records.images import ImageRecord
from distributed_pose.vision.preprocess import network_input
from distributed_pose.vision.profiles import PROFILES

PROFILE = "modelzoo"


def weights_of(state: Mapping[str, torch.Tensor]) -> Weights:
    """Returns the floating-point tensors of a state dict as float32 arrays, by name."""
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return {name: tensor.detach().float().numpy() for name, tensor in floats.items()}


def demo_figures(
    content: bytes,
    num_images: int = DEFAULT_NUM_IMAGES,
    seed: int = DEFAULT_SEED,
    keypoints: KeypointSet | None = None,
) -> dict[str, float]:
    """Returns the COCO keypoint figures of a checkpoint's weights on a demo dataset.

    The figures are for the profile `modelzoo`, and PyTorch computes them in f32.

    Args:
        content: content of a checkpoint.
        num_images: number of images in the demo dataset.
        seed: seed of the demo dataset.
        keypoints: keypoint set of the weights; None is the body of COCO.
    """
    scored = keypoints or coco_body()
    network = network_of(load_checkpoint(content, "the demo's weights").weights, 1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), num_images, seed, keypoints=scored)
        truth = json.loads(dataset.annotations.read_text())
        decoder = Decoder(scored)
        found = (_detect(network, decoder, record, dataset.images) for record in truth["images"])
        detections = [detection for of_image in found for detection in of_image]
    image_ids = [record["id"] for record in truth["images"]]
    return coco_ap(truth, detections, image_ids, scored.sigmas)


def publish(
    run: Path,
    weights: Path,
    date: str,
    num_images: int = DEFAULT_NUM_IMAGES,
    keypoints: KeypointSet | None = None,
) -> dict[str, Any]:
    """Writes the weights of a training run and their card, and returns the card.

    Args:
        run: folder of the training run.
        weights: path of the weights to write; the card has the same name with the suffix `.json`.
        date: day of the training, as ISO 8601.
        num_images: number of images in the demo dataset that the weights are scored on.
        keypoints: keypoint set of the training run; None is the body of COCO.

    Raises:
        SetupError: if the folder has no checkpoint.
        ConfigError: if the checkpoint is of another keypoint set.
    """
    checkpoint = read_checkpoint(run / CHECKPOINT, keypoints or coco_body())
    content = write_checkpoint(weights_of(checkpoint["averaged"]))
    held_out: dict[str, Any] = {"data": f"demo-data, seed {DEFAULT_SEED}, {num_images} images"}
    held_out |= {"profile": PROFILE, "precision": "f32"}
    figures = demo_figures(content, num_images, keypoints=keypoints).items()
    held_out |= {name: round(value, 4) for name, value in figures}
    card = _card(checkpoint, date, held_out, content)
    write_atomically(weights, content)
    write_atomically(weights.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return card


def _detect(
    network: LightweightOpenPose, decoder: Decoder, record: dict[str, Any], images: Path
) -> list[dict[str, Any]]:
    """Returns the detections in an image in COCO's format, in descending order of score."""
    encoded = (images / record["file_name"]).read_bytes()
    listed = ImageRecord(record["id"], record["file_name"], record["height"], record["width"])
    input_3HW, geometry = network_input(encoded, listed, PROFILES[PROFILE])
    with torch.inference_mode():
        *_, heatmaps, pafs = network(torch.from_numpy(input_3HW)[None])
    poses = decoder.decode(heatmaps[0].numpy(), pafs[0].numpy(), geometry)
    return [
        {
            "image_id": record["id"],
            "category_id": PERSON_CATEGORY,
            "keypoints": poses.keypoints_PV[index].tolist(),
            "score": float(poses.scores_P[index]),
        }
        for index in np.argsort(-poses.scores_P, kind="stable")
    ]


def _card(
    checkpoint: dict[str, Any], date: str, held_out: dict[str, Any], content: bytes
) -> dict[str, Any]:
    options, progress = checkpoint["options"], checkpoint["progress"]
    plan = options["plan"]
    return {
        "model": "Lightweight OpenPose, trained from scratch on rendered people",
        "command": command(checkpoint),
        "date": date,
        "seed": options["seed"],
        "steps": progress["step"],
        "crops_seen": progress["step"] * plan["batch_size"],
        "crop_px": plan["side_px"],
        "minutes": round(progress["seconds"] / 60, 1),
        "training_data": {
            "renderer_version": RENDERER_VERSION,
            "seed": FIRST_TRAINING_SEED + options["seed"],
            "images": progress["step"] * plan["batch_size"] // plan["crops_per_scene"],
        },
        "held_out": held_out,
        "weights_precision": "float16",
        "sha256": sha256_hex(content),
        "torch": str(torch.__version__),
    }


def main() -> None:
    """Publishes weights with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file to write")
    parser.add_argument("--date", type=dt.date.fromisoformat, required=True)
    parser.add_argument("--keypoints", type=Path, help="YAML file of the run's keypoint set")
    given = parser.parse_args()
    try:
        keypoints = read_keypoint_set(given.keypoints) if given.keypoints else None
        card = publish(given.run, given.weights, given.date.isoformat(), keypoints=keypoints)
    except PoseEvalError as error:
        sys.exit(str(error))
    print(json.dumps(card, indent=2))  # noqa: T201 - the output of the command


if __name__ == "__main__":
    main()
