"""Draws the labelled people of an image beside the detected ones, as small pictures for a page."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from distributed_pose.data.sources import ImageSource
from distributed_pose.errors import SetupError, first_line
from distributed_pose.report.analysis import ImageFigures
from distributed_pose.report.pictures import Image, draw_poses
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.vision.decode import decode_unlisted_image

_MAX_SIDE_PX = 360
_QUALITY = 78


@dataclass(frozen=True)
class Thumbnails:
    """An image of a run with its people.

    Attributes:
        figures: errors in the image.
        truth: picture of the labelled people as a data URI; empty if the image is not available.
        found: picture of the detected people as a data URI; empty if the image is not available.
        reason: reason why there are no pictures; empty if there are.
    """

    figures: ImageFigures
    truth: str
    found: str
    reason: str


def thumbnails(run: StoredRun, figures: Sequence[ImageFigures]) -> list[Thumbnails]:
    """Returns pictures of images of a run, each with its labelled and its detected people.

    Args:
        run: run with an analysis.
        figures: images to draw.
    """
    listed = {run.index.listed_id(image.image_id): image for image in run.index.images}
    truth = _people(run.index.ground_truth["annotations"])
    found = _people(run.detections)
    drawn = []
    for one in figures:
        image_id = listed[one.image_id].image_id
        try:
            image_HW3 = _read(run.images, one.file_name)
        except (SetupError, OSError, ValueError) as error:
            drawn.append(Thumbnails(one, "", "", first_line(error)))
            continue
        left, right = (_uri(image_HW3, people.get(image_id, [])) for people in (truth, found))
        drawn.append(Thumbnails(one, left, right, ""))
    return drawn


def _people(entries: Sequence[Mapping[str, object]]) -> dict[object, list[object]]:
    people: dict[object, list[object]] = {}
    for one in entries:
        if not one.get("iscrowd") and one.get("num_keypoints", 1):
            people.setdefault(one["image_id"], []).append(one["keypoints"])
    return people


def _read(images: ImageSource, name: str) -> Image:
    return decode_unlisted_image(images.read(name)).image_HW3


def _uri(image_HW3: Image, people: Sequence[object]) -> str:
    """Returns a small picture of an image with people, as a data URI."""
    height, width = image_HW3.shape[:2]
    scale = min(1.0, _MAX_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)
    poses = np.array(people, np.float64).reshape(-1, 17, 3) * (scale, scale, 1)
    drawn = draw_poses(small, poses.reshape(-1, 51).tolist())
    _, encoded = cv2.imencode(".jpg", drawn, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
