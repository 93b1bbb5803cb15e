"""Draws people on images, and images on a sheet.

Array legend: H and W size in pixels, 3 the channels in OpenCV's order blue, green, red.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.errors import SetupError
from distributed_pose.files.local import write_atomically
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.report.skeletons import limb_colours, skeleton

Image = npt.NDArray[np.uint8]

_TILE_HEIGHT_PX = 360
_MAX_TILE_WIDTH_PX = 1440

# Colour-blind safe, after Okabe and Ito.
_COLOURS = ((0, 159, 230), (115, 158, 0), (178, 114, 0), (66, 228, 240), (167, 121, 204))


# OpenCV draws only at coordinates in this range; keypoints can be far outside of their image.
_MAX_PIXEL = 2**20


def draw_poses(
    image_HW3: Image, people: Sequence[Sequence[float]], keypoints: KeypointSet
) -> Image:
    """Returns a copy of an image with people drawn on it.

    Args:
        image_HW3: uint8, BGR.
        people: x, y and visibility of each keypoint per person, in the dataset's order and in image
            pixels.
        keypoints: keypoint set of the people.
    """
    lines, colours = skeleton(keypoints), limb_colours(keypoints)
    drawn = image_HW3.copy()
    thickness = max(1, round(max(image_HW3.shape[:2]) / 200))
    for index, person in enumerate(people):
        points = np.reshape(np.asarray(person), (-1, 3))
        colour = _COLOURS[index % len(_COLOURS)]
        for number, line in enumerate(lines):
            if points[[*line.start, *line.end], 2].all():
                start, end = (_pixel(points[[*one]].mean(axis=0)) for one in line[:2])
                own = colours[number] if colours else colour
                cv2.line(drawn, start, end, own, thickness, cv2.LINE_AA)
        for point in points[points[:, 2] > 0]:
            cv2.circle(drawn, _pixel(point), thickness + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(drawn, _pixel(point), thickness, colour, -1, cv2.LINE_AA)
    return drawn


def draw_scores(
    image_HW3: Image, people: Sequence[Sequence[float]], scores: Sequence[float]
) -> Image:
    """Returns a copy of an image with a score above each person.

    Args:
        image_HW3: uint8, BGR.
        people: x, y and visibility of each keypoint per person, in image pixels.
        scores: a score from 0 to 1 per person.
    """
    drawn = image_HW3.copy()
    size = max(image_HW3.shape[:2]) / 900
    for index, (person, score) in enumerate(zip(people, scores, strict=True)):
        points = np.reshape(np.asarray(person), (-1, 3))
        found = points[points[:, 2] > 0]
        if not len(found):
            continue
        x, y = _pixel(found[found[:, 1].argmin()])
        # The score of a person at the upper edge would be outside of the image.
        place = x, max(y - round(12 * size), round(24 * size))
        for colour, width in (((0, 0, 0), 4), (_COLOURS[index % len(_COLOURS)], 1)):
            thickness = max(1, round(width * size))
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(drawn, f"{score:.2f}", place, font, size, colour, thickness, cv2.LINE_AA)
    return drawn


def sheet(rows: Sequence[Sequence[Image]], columns: int) -> Image:
    """Returns images of one height in rows; the images of a group stay in one row.

    Args:
        rows: groups of images of any size, such as labelled and detected people of one image.
        columns: number of groups in a row.
    """
    groups = [np.hstack([_tile(image_HW3) for image_HW3 in group]) for group in rows]
    lines = [np.hstack(groups[start : start + columns]) for start in range(0, len(groups), columns)]
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines]
    return np.vstack(padded)


def write_picture(path: Path, image_HW3: Image) -> None:
    """Writes an image to a file whose suffix determines the format.

    Raises:
        SetupError: if the suffix is not that of a picture format.
        ExecutionError: if the file cannot be written.
    """
    try:
        _, encoded = cv2.imencode(path.suffix, image_HW3)
    except (cv2.error, ValueError):
        raise SetupError(
            f"{path}: the suffix is not a picture format", "use .jpg or .png"
        ) from None
    write_atomically(path, encoded.tobytes())


def _pixel(point: npt.NDArray[np.float64]) -> tuple[int, int]:
    x, y = np.clip(point[:2], -_MAX_PIXEL, _MAX_PIXEL).tolist()
    return int(x), int(y)


def _tile(image_HW3: Image) -> Image:
    height, width = image_HW3.shape[:2]
    scale = min(_TILE_HEIGHT_PX / height, _MAX_TILE_WIDTH_PX / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.pad(tile, ((0, _TILE_HEIGHT_PX - tile.shape[0]), (0, 0), (0, 0)))
