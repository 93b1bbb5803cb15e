"""Writes the demo dataset: JPEG files and a COCO keypoint annotation file."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.demo.figures import check_joints
from distributed_pose.demo.scenes import Person, Scene, render_scene
from distributed_pose.errors import ConfigError, ExecutionError, SetupError
from distributed_pose.files.local import read_regular, write_atomically
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet

DEFAULT_NUM_IMAGES = 64
DEFAULT_SEED = 0
# Seeds from this one on are reserved for training.
FIRST_TRAINING_SEED = 1_000_000
# This number is increased whenever the pictures of a seed change.
RENDERER_VERSION = 1

JPEG_QUALITY = 90

_DESCRIPTION = "Rendered people with COCO keypoints"
_MAX_ANNOTATIONS_BYTES = 2**30

_MASK_TOLERANCE_PX = 1.0
_COCO_SKELETON = (
    *([16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9]),
    *([8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]),
)

Json = dict[str, Any]


@dataclass(frozen=True)
class DemoDataset:
    """The paths of a demo dataset.

    Attributes:
        images: folder of the JPEG files.
        annotations: COCO keypoint annotation file.
    """

    images: Path
    annotations: Path


def write_dataset(
    folder: Path,
    num_images: int = DEFAULT_NUM_IMAGES,
    seed: int = DEFAULT_SEED,
    progress: Callable[[int], None] | None = None,
    keypoints: KeypointSet | None = None,
) -> DemoDataset:
    """Returns the dataset written to `folder`, as `images/` and `annotations/`.

    Image k depends on the seed and on k only: a larger dataset begins with the smaller one.

    Args:
        folder: output folder, which is created if it is missing; an existing demo dataset in it is
            replaced.
        num_images: number of images, at least 1.
        seed: seed below `FIRST_TRAINING_SEED`, so that no image was seen in training.
        progress: callback that is called after each image with the number of images written so
            far.
        keypoints: keypoint set of the annotations; None is the body of COCO.

    Raises:
        ConfigError: if the number or the seed is out of range, or rendered people lack a keypoint
            of the set.
        SetupError: if the folder holds other images or annotations.
        ExecutionError: if a file cannot be written.
    """
    _check(num_images, seed)
    labelled = keypoints or coco_body()
    check_joints(labelled)
    dataset = DemoDataset(folder / "images", folder / "annotations" / "person_keypoints.json")
    _make_folder(dataset.images)
    _check_owner(dataset)
    images: list[Json] = []
    annotations: list[Json] = []
    for index in range(num_images):
        scene = render_scene(seed, index, labelled)
        images.append(_write_image(dataset.images, index, scene))
        for person in scene.people:
            annotations.append(_annotation(len(annotations) + 1, index + 1, person))
        if progress:
            progress(index + 1)
    content = json.dumps(_document(seed, images, annotations, labelled), separators=(",", ":"))
    write_atomically(dataset.annotations, content + "\n")
    return dataset


def encode_jpeg(image_HW3: npt.NDArray[np.uint8]) -> bytes:
    """Returns the image as JPEG."""
    _, encoded = cv2.imencode(".jpg", image_HW3, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()


def person_box(person: Person) -> tuple[float, float, float, float]:
    """Returns x, y, width, height of the visible part of a person, in image pixels."""
    x, y, width, height = cv2.boundingRect(person.mask_HW.astype(np.uint8))
    return float(x), float(y), float(width), float(height)


def _check(num_images: int, seed: int) -> None:
    if num_images < 1:
        raise ConfigError(f"a dataset has at least 1 image, not {num_images}")
    if not 0 <= seed < FIRST_TRAINING_SEED:
        raise ConfigError(f"seed {seed} is not in 0 to {FIRST_TRAINING_SEED - 1}")


def _check_owner(dataset: DemoDataset) -> None:
    """Checks that only a demo dataset would be replaced."""
    if not any(dataset.images.iterdir()) and not os.path.lexists(dataset.annotations):
        return
    try:
        content = json.loads(read_regular(dataset.annotations, _MAX_ANNOTATIONS_BYTES))
        is_demo = content["info"]["description"] == _DESCRIPTION
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        is_demo = False
    if not is_demo:
        where = f"{dataset.images} or {dataset.annotations}"
        raise SetupError(
            f"{where} already exists and is not a demo dataset", "choose another folder"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExecutionError(f"cannot create {folder}: {error.strerror}") from None


def _write_image(folder: Path, index: int, scene: Scene) -> Json:
    name = f"{index + 1:012d}.jpg"
    write_atomically(folder / name, encode_jpeg(scene.image_HW3), durable=False)
    height, width = scene.image_HW3.shape[:2]
    return {"id": index + 1, "file_name": name, "height": height, "width": width, "license": 1}


def _annotation(annotation_id: int, image_id: int, person: Person) -> Json:
    keypoints = [value for x, y, v in person.keypoints_Dx3 for value in _triplet(x, y, v)]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": int(person.crowd),
        "num_keypoints": int((person.keypoints_Dx3[:, 2] > 0).sum()),
        "keypoints": keypoints,
        "bbox": list(person_box(person)),
        "area": float(person.mask_HW.sum()),
        "segmentation": _runs(person.mask_HW) if person.crowd else _polygons(person.mask_HW),
    }


def _triplet(x: float, y: float, visibility: float) -> tuple[float, float, int]:
    return round(float(x), 1), round(float(y), 1), int(visibility)


def _polygons(mask_HW: npt.NDArray[np.bool_]) -> list[list[float]]:
    """Returns the outlines of a mask, each as x, y, x, y, ... in image pixels."""
    image = mask_HW.astype(np.uint8)
    outlines, _ = cv2.findContours(image, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    simple = (cv2.approxPolyDP(outline, _MASK_TOLERANCE_PX, closed=True) for outline in outlines)
    polygons = [
        outline.astype(float).reshape(-1).tolist() for outline in simple if len(outline) > 2
    ]
    x, y, width, height = cv2.boundingRect(image)
    box = [x, y, x + width, y, x + width, y + height, x, y + height]
    return polygons or [[float(value) for value in box]]


def _runs(mask_HW: npt.NDArray[np.bool_]) -> Json:
    """Returns COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask_HW.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask_HW.shape), "counts": [0, *counts] if flat[0] else counts}


def _document(
    seed: int, images: list[Json], annotations: list[Json], keypoints: KeypointSet
) -> Json:
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": keypoints.dataset_keypoints,
        "skeleton": _skeleton(keypoints),
    }
    return {
        "info": {
            "description": _DESCRIPTION,
            "version": str(RENDERER_VERSION),
            "seed": seed,
        },
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/"}],
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }


def _skeleton(keypoints: KeypointSet) -> Sequence[Sequence[int]]:
    """Returns the pairs of connected keypoints of annotations, counted from 1."""
    if keypoints == coco_body():
        return _COCO_SKELETON
    number = keypoints.to_dataset
    pairs = ((number[limb.start], number[limb.end]) for limb in keypoints.limbs)
    return [[a + 1, b + 1] for a, b in pairs if a is not None and b is not None]
