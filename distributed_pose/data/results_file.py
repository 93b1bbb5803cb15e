"""Reads a file of COCO keypoint results, from any tool, against an annotation file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distributed_pose.data.categories import owner_of, same_id
from distributed_pose.data.coco import CocoIndex
from distributed_pose.data.entries import (
    InvalidEntryError,
    ListedId,
    Notes,
    Reading,
    shown,
)
from distributed_pose.errors import SetupError
from distributed_pose.files.storage import read_location
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.locations import Location
from distributed_pose.metrics.coco_ap import coco_results

_NUMBERS = frozenset({int, float})

# No image is larger, and the square of such a coordinate is finite in float32.
_MAX_COORDINATE = 2**31

_HINT = "give a file of COCO keypoint results and the annotation file of the same images"
_OTHER_CATEGORY = "Detections of other categories are ignored"
_LEFT_OUT = "Detections in images that are not among the scored ones are ignored"


def read_results(
    location: Path | str | Location, index: CocoIndex
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Returns the detections of a results file, and sentences on what was ignored.

    The detections are in canonical order and have the index's own image ids, so that they are
    scored as the detections of a run are.

    Args:
        location: path or URI of the file.
        index: index of the annotation file.

    Raises:
        SetupError: if the file cannot be read, or is not a list of keypoint detections in images of
            the index; names the entry.
    """
    location = Location(location)
    notes = Notes()
    try:
        rows = _rows(_entries(location), index, notes)
    except InvalidEntryError as error:
        raise SetupError(f"{location}: {error}", error.hint or _HINT) from None
    return coco_results(rows), notes.lines


def _entries(location: Location) -> list[Any]:
    try:
        content = json.loads(read_location(location, "DETECTIONS.json"))
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{location} is not JSON: {error}", _HINT) from None
    if not isinstance(content, list):
        raise InvalidEntryError(f"is {shown(content)}, not a list of detections")
    return content


def _rows(entries: Sequence[Any], index: CocoIndex, notes: Notes) -> list[dict[str, Any]]:
    ids = {index.listed_id(image.image_id): image.image_id for image in index.images}
    rows = []
    for position, entry in enumerate(entries):
        where = f"detections[{position}]"
        if not isinstance(entry, dict):
            raise InvalidEntryError(f"{where} is {shown(entry)}, not an object")
        reading = Reading(entry, where, notes)
        if not same_id(index.category_id, reading.required("category_id")):
            notes.add(_OTHER_CATEGORY)
            continue
        image_id = reading.identifier("image_id")
        if image_id not in ids and index.is_partial:
            notes.add(_LEFT_OUT)
            continue
        if image_id not in ids:
            raise reading.invalid(f"image {shown(image_id)} is not in the annotation file")
        rows.append(_row(reading, ids, image_id, index.keypoints))
    return rows


def _row(
    reading: Reading,
    ids: Mapping[ListedId, int],
    image_id: ListedId,
    keypoints: KeypointSet,
) -> dict[str, Any]:
    return {
        "image_id": ids[image_id],
        "score": reading.number("score"),
        "keypoints": _keypoints(reading, keypoints),
    }


def _keypoints(reading: Reading, keypoints: KeypointSet) -> list[float]:
    values, number = reading.required("keypoints"), 3 * keypoints.num_dataset_keypoints
    if not isinstance(values, list):
        raise reading.invalid(f"'keypoints' is {shown(values)}, not a list of {number} numbers")
    if len(values) != number:
        owner = owner_of(keypoints)
        raise reading.invalid(f"'keypoints' has {len(values)} values, {owner} has {number}")
    if not _NUMBERS.issuperset(map(type, values)):
        raise reading.invalid(f"'keypoints' is not a list of {number} numbers")
    try:
        is_possible = bool((np.abs(np.array(values, np.float64)) <= _MAX_COORDINATE).all())
    except OverflowError:
        is_possible = False
    if not is_possible:
        raise reading.invalid("'keypoints' has a number that cannot be a pixel")
    return values
