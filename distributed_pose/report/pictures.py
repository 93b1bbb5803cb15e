"""Draws the detected poses of a run on its images.

Array legend: H and W size in pixels, 3 the channels in OpenCV's order blue, green, red.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import FailFast, Field

from distributed_pose.data.coco import load_index
from distributed_pose.data.entries import ListedId
from distributed_pose.data.sources import ImageSource, open_images
from distributed_pose.errors import SetupError
from distributed_pose.files.json_records import read_record, read_records
from distributed_pose.files.local import check_not_input, one_line, write_atomically
from distributed_pose.files.storage import filesystem_of, is_local, read_location
from distributed_pose.pose.skeleton import LIMBS, NECK, NUM_COCO_KEYPOINTS, TO_COCO
from distributed_pose.vision.decode import decode_unlisted_image

Image = npt.NDArray[np.uint8]

_TILE_HEIGHT_PX = 360
_MAX_TILE_WIDTH_PX = 1440
_COLUMNS = 4

# Limbs between keypoints of COCO, without the ear-to-shoulder limbs, which clutter a picture.
_BONES = [(TO_COCO[a], TO_COCO[b]) for a, b, *_ in LIMBS[:-2] if NECK not in {a, b}] + [
    (5, 6),
    (5, 11),
    (6, 12),
    (11, 12),
]

# Colour-blind safe, after Okabe and Ito.
_COLOURS = ((0, 159, 230), (115, 158, 0), (178, 114, 0), (66, 228, 240), (167, 121, 204))


@dataclass(frozen=True)
class _Places:
    images: str
    annotations: str
    category: ListedId | None = None


@dataclass(frozen=True)
class _Report:
    data: _Places


# Coordinates that OpenCV can draw, including keypoints outside of the image.
_Pixels = Annotated[float, Field(ge=-(2**20), le=2**20)]


@dataclass(frozen=True)
class _Detection:
    image_id: ListedId
    keypoints: Annotated[tuple[_Pixels, ...], Field(min_length=51, max_length=51), FailFast()]


def draw_run(run: Path, output: Path, count: int = 4) -> None:
    """Writes a picture of the poses in the first images of a run that have any.

    Args:
        run: output folder of an evaluation.
        output: path of the picture; its suffix determines the format.
        count: maximum number of images in the picture.

    Raises:
        SetupError: if the run's files or images cannot be read, or it has no detections.
    """
    data, detections = _read_run(run)
    images = open_images(data.images)
    index = load_index(data.annotations, category=data.category, source=images)
    names = {index.listed_id(image.image_id): image.file_name for image in index.images}
    check_not_input(output, _files(images, names.values()))
    poses: dict[ListedId, list[Sequence[float]]] = defaultdict(list)
    for detection in detections:
        # The further ids of a repeated image have no file name.
        if detection.image_id in names:
            poses[detection.image_id].append(detection.keypoints)
    if not poses:
        raise SetupError(f"{run} has no detections to draw")
    tiles = [
        _tile(draw_poses(_load(images, names[image_id]), keypoints))
        for image_id, keypoints in [*poses.items()][:count]
    ]
    _write(output, _sheet(tiles))


def draw_poses(image_HW3: Image, people: Sequence[Sequence[float]]) -> Image:
    """Returns a copy of an image with people drawn on it.

    Args:
        image_HW3: uint8, BGR.
        people: 51 numbers per person, in COCO's order and in image pixels.
    """
    drawn = image_HW3.copy()
    thickness = max(1, round(max(image_HW3.shape[:2]) / 200))
    for index, person in enumerate(people):
        points = np.reshape(np.asarray(person), (NUM_COCO_KEYPOINTS, 3))
        colour = _COLOURS[index % len(_COLOURS)]
        for a, b in _BONES:
            if points[a, 2] and points[b, 2]:
                ends = (_pixel(points[a]), _pixel(points[b]))
                cv2.line(drawn, *ends, colour, thickness, cv2.LINE_AA)
        for point in points[points[:, 2] > 0]:
            cv2.circle(drawn, _pixel(point), thickness + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(drawn, _pixel(point), thickness, colour, -1, cv2.LINE_AA)
    return drawn


def _files(images: ImageSource, names: Iterable[str]) -> dict[str, Path | None]:
    """Returns the paths of images by name; empty if they are not on this machine."""
    filesystem, folder = filesystem_of(images.location, "data.images")
    return {name: Path(folder, name) for name in names} if is_local(filesystem) else {}


def _pixel(point: npt.NDArray[np.float64]) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _read_run(run: Path) -> tuple[_Places, list[_Detection]]:
    path = run / "report.json"
    try:
        report = read_record(_Report, read_location(path, "the output folder of an evaluation"))
        path = run / "detections.json"
        detections = read_location(path, "the output folder of an evaluation")
        return report.data, read_records(_Detection, detections)
    except ValueError as error:
        hint = "give the output folder of an evaluation"
        raise SetupError(f"cannot read {path}: {error}", hint) from None


def _load(images: ImageSource, name: str) -> Image:
    try:
        return decode_unlisted_image(images.read(name)).image_HW3
    except (OSError, ValueError) as error:
        where = images.location.within(name)
        raise SetupError(f"cannot read {where}: {one_line(error)}") from None


def _tile(image_HW3: Image) -> Image:
    height, width = image_HW3.shape[:2]
    scale = min(_TILE_HEIGHT_PX / height, _MAX_TILE_WIDTH_PX / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.pad(tile, ((0, _TILE_HEIGHT_PX - tile.shape[0]), (0, 0), (0, 0)))


def _sheet(tiles: Sequence[Image]) -> Image:
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return np.vstack(padded)


def _write(path: Path, image_HW3: Image) -> None:
    try:
        _, encoded = cv2.imencode(path.suffix, image_HW3)
    except (cv2.error, ValueError):
        raise SetupError(
            f"{path}: the suffix is not a picture format", "use .jpg or .png"
        ) from None
    write_atomically(path, encoded.tobytes())
