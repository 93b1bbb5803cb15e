"""Draws the labelled people of an image beside the detected ones, as small pictures for a page."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from distributed_pose.errors import SetupError, first_line
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.report.analysis import ImageFigures
from distributed_pose.report.comparison import ImageChange
from distributed_pose.report.pictures import Image, draw_poses
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.vision.decode import decode_unlisted_image

_MAX_SIDE_PX = 360
_QUALITY = 78


@dataclass(frozen=True)
class Thumbnails:
    """An image of a run with its people.

    Attributes:
        pictures: data URIs of the labelled people, and of the people that each run detected; empty
            if the image is not available.
        reason: reason why there are no pictures; empty if there are.
    """

    pictures: tuple[str, ...]
    reason: str = ""


def thumbnails(
    runs: Sequence[StoredRun], figures: Sequence[ImageFigures | ImageChange]
) -> list[tuple[ImageFigures | ImageChange, Thumbnails]]:
    """Returns images with pictures of the labelled people, and of those that each run detected.

    Args:
        runs: runs over the same images, each with an analysis; images are those of the first.
        figures: images to draw.
    """
    run = runs[0]
    own = {run.index.listed_id(image.image_id): image.image_id for image in run.index.images}
    layers = [_people(run.index.ground_truth["annotations"])]
    layers += [_people(each.detections) for each in runs]
    drawn = []
    for one in figures:
        people = [layer.get(own[one.image_id], []) for layer in layers]
        drawn.append((one, _thumbnails(run, one.file_name, people)))
    return drawn


def _thumbnails(
    run: StoredRun, name: str, layers: Sequence[Sequence[Sequence[float]]]
) -> Thumbnails:
    try:
        image_HW3 = decode_unlisted_image(run.images.read(name)).image_HW3
    except (SetupError, OSError, ValueError) as error:
        return Thumbnails((), first_line(error))
    keypoints = run.index.keypoints
    return Thumbnails(tuple(_uri(image_HW3, people, keypoints) for people in layers))


def _people(entries: Sequence[Mapping[str, Any]]) -> dict[int, list[Sequence[float]]]:
    people: dict[int, list[Sequence[float]]] = {}
    for one in entries:
        if not one.get("iscrowd") and one.get("num_keypoints", 1):
            people.setdefault(one["image_id"], []).append(one["keypoints"])
    return people


def _uri(image_HW3: Image, people: Sequence[Sequence[float]], keypoints: KeypointSet) -> str:
    """Returns a small picture of an image with people, as a data URI."""
    height, width = image_HW3.shape[:2]
    scale = min(1.0, _MAX_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)
    poses = [np.reshape(person, (-1, 3)) * (scale, scale, 1) for person in people]
    drawn = draw_poses(small, [pose.ravel().tolist() for pose in poses], keypoints)
    _, encoded = cv2.imencode(".jpg", drawn, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
