"""The index of a COCO keypoint annotation file, with every check at this boundary.

Whatever passes here is safe to score and to open: ids are unique, keypoints have COCO's layout,
and file names stay inside the image folder.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from distributed_pose.errors import SetupError
from distributed_pose.locations import Location
from distributed_pose.metrics.coco_ap import PERSON_CATEGORY
from distributed_pose.pose.skeleton import NUM_COCO_KEYPOINTS
from distributed_pose.records import ImageRecord
from distributed_pose.storage import read_location

_JsonObject = Mapping[str, Any]

# COCO's polygons are 5 deep. What copies or parses the content again needs more of Python's stack.
_MAX_DEPTH = 100
_CONTAINERS = (dict, list)

# No image is larger. A float32 of a coordinate, and the square of one, are finite.
_MAX_COORDINATE = 2**31

# JSON can spell halves of characters; neither they nor a null byte can be in a file's name.
_NO_NAME = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class CocoIndex:
    """A checked dataset.

    Attributes:
        images: to be evaluated, in ascending id; those without people are among them.
        ground_truth: the annotation file's content, whole.
        num_images_listed: images that the annotation file lists.
    """

    images: tuple[ImageRecord, ...]
    ground_truth: _JsonObject
    num_images_listed: int

    @property
    def is_partial(self) -> bool:
        """Whether a limit leaves out some of the listed images."""
        return len(self.images) < self.num_images_listed


def load_index(annotations: Path | str | Location, limit: int | None = None) -> CocoIndex:
    """Returns the index of an annotation file.

    Args:
        annotations: COCO keypoint annotations, JSON, at a path or a URI.
        limit: keep only the first so many image ids, in ascending order.

    Raises:
        SetupError: if the file cannot be read or is no COCO keypoint file; names the entry.
    """
    annotations = Location(annotations)
    content = _read_json(annotations)
    try:
        _check_depth(content)
        images = _check_images(_list(content, "images"))
        _check_categories(_list(content, "categories"))
        _check_annotations(_list(content, "annotations"), {image.image_id for image in images})
    except _InvalidEntryError as error:
        hint = "data.annotations must be a COCO person-keypoint annotation file"
        raise SetupError(f"{annotations}: {error}", hint) from None
    images.sort(key=lambda image: image.image_id)
    return CocoIndex(tuple(images[:limit]), content, len(images))


def repeated(index: CocoIndex, times: int) -> CocoIndex:
    """Returns a dataset that lists the same images so many times, under ids that go on.

    It measures long runs with few images.
    """
    if times == 1:
        return index
    content = {**index.ground_truth, "images": [], "annotations": []}
    kept = {image.image_id for image in index.images}
    listed = [image for image in index.ground_truth["images"] if image["id"] in kept]
    people = [one for one in index.ground_truth["annotations"] if one["image_id"] in kept]
    image_step = 1 + max(kept)
    step = 1 + max((one["id"] for one in people), default=0)
    images = []
    for turn in range(times):
        first = turn * image_step
        content["images"] += [{**image, "id": image["id"] + first} for image in listed]
        content["annotations"] += [
            {**one, "id": one["id"] + turn * step, "image_id": one["image_id"] + first}
            for one in people
        ]
        images += [replace(image, image_id=image.image_id + first) for image in index.images]
    return CocoIndex(tuple(images), content, times * index.num_images_listed)


class _InvalidEntryError(ValueError):
    """What is wrong with an entry."""


def _read_json(location: Location) -> _JsonObject:
    setting = "data.annotations"
    try:
        content = json.loads(read_location(location, setting))
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{location} is not JSON: {error}", f"see {setting}") from None
    if not isinstance(content, dict):
        raise SetupError(f"{location}: is a {type(content).__name__}, not a COCO annotation object")
    return content


def _check_depth(content: _JsonObject) -> None:
    level: list[Any] = [content]
    for _ in range(_MAX_DEPTH):
        children = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for nodes in children for child in nodes if type(child) in _CONTAINERS]
        if not level:
            return
    raise _InvalidEntryError(f"is nested over {_MAX_DEPTH} deep")


def _list(content: _JsonObject, key: str) -> list[_JsonObject]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _InvalidEntryError(f"has no list of objects '{key}'")
    return entries


def _check_images(entries: list[_JsonObject]) -> list[ImageRecord]:
    if not entries:
        raise _InvalidEntryError("lists no images")
    seen: set[int] = set()
    images = []
    for position, entry in enumerate(entries):
        image = _image(entry, f"images[{position}]")
        if image.image_id in seen:
            raise _InvalidEntryError(f"image id {image.image_id} is listed twice")
        seen.add(image.image_id)
        images.append(image)
    return images


def _image(entry: _JsonObject, where: str) -> ImageRecord:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or _NO_NAME.search(name):
        raise _InvalidEntryError(f"{where} has no file_name")
    if not _stays_inside(name):
        raise _InvalidEntryError(f"{where}: file_name {name!r} leaves the image folder")
    height, width = _integer(entry, "height", where), _integer(entry, "width", where)
    if not 1 <= height < 2**31 or not 1 <= width < 2**31:
        raise _InvalidEntryError(f"{where}: an image of {width}x{height} pixels")
    return ImageRecord(_integer(entry, "id", where), name, height, width)


def _stays_inside(name: str) -> bool:
    # Read both ways, since a dataset may have been written on another system.
    paths = PurePosixPath(name), PureWindowsPath(name)
    return not any(path.is_absolute() or path.anchor or ".." in path.parts for path in paths)


def _check_categories(entries: list[_JsonObject]) -> None:
    for position, entry in enumerate(entries):
        _integer(entry, "id", f"categories[{position}]")
    for entry in entries:
        keypoints = entry.get("keypoints")
        if entry.get("id") == PERSON_CATEGORY and isinstance(keypoints, list):
            if len(keypoints) != NUM_COCO_KEYPOINTS:
                raise _InvalidEntryError(
                    f"category 1 has {len(keypoints)} keypoints, COCO's person has 17"
                )
            return
    raise _InvalidEntryError("has no category 1 with keypoints, so it is no keypoint file")


def _check_annotations(entries: list[_JsonObject], image_ids: set[int]) -> None:
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        where = f"annotations[{position}]"
        annotation_id = _integer(entry, "id", where)
        if annotation_id in seen:
            raise _InvalidEntryError(f"annotation id {annotation_id} is listed twice")
        seen.add(annotation_id)
        image_id = _integer(entry, "image_id", where)
        if image_id not in image_ids:
            raise _InvalidEntryError(f"{where} is of image {image_id}, which is not listed")
        if _integer(entry, "category_id", where) == PERSON_CATEGORY:
            _check_person(entry, where)


def _check_person(entry: _JsonObject, where: str) -> None:
    keypoints = _numbers(entry, "keypoints", 3 * NUM_COCO_KEYPOINTS, where)
    visible = sum(visibility > 0 for visibility in keypoints[2::3])
    if any(visibility not in (0, 1, 2) for visibility in keypoints[2::3]):
        raise _InvalidEntryError(f"{where}: a keypoint's visibility is 0, 1 or 2")
    if _integer(entry, "num_keypoints", where) != visible:
        raise _InvalidEntryError(f"{where}: num_keypoints is not the number of labelled keypoints")
    if _integer(entry, "iscrowd", where) not in (0, 1):
        raise _InvalidEntryError(f"{where}: iscrowd is 0 or 1")
    _numbers(entry, "bbox", 4, where)
    if not _is_number(entry.get("area")) or entry["area"] < 0:
        raise _InvalidEntryError(f"{where}: area is no number of square pixels")


def _integer(entry: _JsonObject, key: str, where: str) -> int:
    value = entry.get(key)
    # Ids travel as 64-bit integers.
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise _InvalidEntryError(f"{where}: {key} is no integer")
    return value


def _numbers(entry: _JsonObject, key: str, count: int, where: str) -> list[float]:
    values = entry.get(key)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(_is_number(value) and abs(value) <= _MAX_COORDINATE for value in values)
    ):
        raise _InvalidEntryError(f"{where}: {key} is no list of {count} numbers of pixels")
    return values


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63
