"""Reads the people of an annotation file in the form that COCOeval scores.

Source: what COCOeval with iouType "keypoints" reads (pycocotools 2.0.11, `_prepare`, `computeOks`,
`evaluateImg`): `iscrowd`, whether `num_keypoints` is 0, `area`, `keypoints`, and `bbox` of people
without a labelled keypoint. It never reads `segmentation` or `ignore`.

Array legend: N people, K keypoints.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.data.categories import Category, owner_of
from distributed_pose.data.entries import (
    TEXT,
    InvalidEntryError,
    JsonObject,
    ListedId,
    Notes,
    Reading,
    shown,
)
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.metrics.coco_ap import PERSON_CATEGORY

# No image is larger, and the square of such a coordinate is finite in float32.
_MAX_COORDINATE = 2**31

_NUMBERS = frozenset({int, float, bool})
_NO_BOX = [0, 0, 0, 0]

# The number of people that are checked together, in arrays of a few megabytes.
_CHUNK = 4096

_UNLISTED = "Annotations of images that are not listed are ignored"
_NO_CROWD = "Annotations without 'iscrowd' do not count as crowds"
_COUNTED = "Annotations without 'num_keypoints' get the number of their labelled keypoints"
_DISAGREES = (
    "'num_keypoints' is not the number of labelled keypoints; as in pycocotools, it only matters "
    "whether it is 0"
)
_NO_KEYPOINTS = "Annotations without keypoints count as unlabelled people, whose region is ignored"
_NESTED = "Keypoints in lists of three are read as one list"
_ODD_VISIBILITY = (
    "Keypoints with a visibility other than 0, 1 and 2 count as labelled if it is over 0, as in "
    "pycocotools"
)
_NO_AREA = "People of area 0 are matched by exact keypoints only, as in pycocotools"
_IGNORE = "'ignore' is set but not read, as in pycocotools"
_ID_ZERO = (
    "Annotation ids are replaced by numbers from 1, since pycocotools reads a match with id 0 as "
    "no match"
)
_ID_TWICE = "Annotation ids are replaced by numbers from 1, since some occur more than once"
_ID_ODD = "Annotation ids are replaced by numbers from 1, since some are not integers"


class _Person(NamedTuple):
    """A person of the file.

    Attributes:
        position: position in the list of annotations.
        values: values that COCOeval reads.
        has_keypoints: whether the file has keypoints of the person, labelled or not.
    """

    position: int
    values: dict[str, Any]
    has_keypoints: bool


def read_people(
    entries: Sequence[JsonObject],
    category: Category,
    image_ids: Mapping[ListedId, int],
    notes: Notes,
    keypoints: KeypointSet,
) -> list[dict[str, Any]]:
    """Returns the annotations of people in the form that COCOeval reads, without ids, in order.

    Args:
        entries: annotations of the file.
        category: category of the person.
        image_ids: our image ids by the image ids of the file.
        notes: receives sentences about content that is ignored, replaced or assumed.
        keypoints: keypoint set of the people.

    Raises:
        InvalidEntryError: if an annotation of a person cannot be scored; names it.
    """
    people = []
    is_text = any(isinstance(listed, str) for listed in image_ids)
    selected = _select(entries, category, image_ids, notes, is_text=is_text)
    read = (
        _read_person(position, image_id, Reading(entries[position], where, notes), keypoints)
        for position, image_id, where in selected
    )
    while chunk := list(islice(read, _CHUNK)):
        _check_keypoints(chunk, notes)
        people += [person.values for person in chunk]
    return people


def note_ids(entries: Sequence[JsonObject], notes: Notes) -> None:
    """Adds notes on annotation ids with which pycocotools would score incorrectly."""
    ids = [entry.get("id") for entry in entries]
    integers = {number for number in ids if type(number) is int}
    num_odd = sum(type(number) is not int for number in ids)
    notes.add(_ID_ODD, num_odd)
    notes.add(_ID_TWICE, len(ids) - num_odd - len(integers))
    notes.add(_ID_ZERO, 0 in integers)


def _select(
    entries: Sequence[JsonObject],
    category: Category,
    image_ids: Mapping[ListedId, int],
    notes: Notes,
    *,
    is_text: bool,
) -> Iterable[tuple[int, int, str]]:
    """Yields position, our image id, and name in messages of each annotation that is scored."""
    for position, entry in enumerate(entries):
        where = f"annotations[{position}]"
        reading = Reading(entry, where, notes)
        if not category.has_id(entry.get("category_id")):
            reading.required("category_id")
            continue
        # COCOeval ignores people whose id is text in one place and a number in the other.
        notes.add(TEXT, entry["category_id"] != category.id)
        image_id = reading.identifier("image_id")
        if isinstance(image_id, str) != is_text:
            raise reading.invalid(f"'image_id' is {shown(image_id)}, unlike the ids of the images")
        if image_id in image_ids:
            yield position, image_ids[image_id], where
        else:
            notes.add(_UNLISTED)


def _read_person(position: int, image_id: int, reading: Reading, keypoints: KeypointSet) -> _Person:
    entry, notes = reading.entry, reading.notes
    area = reading.number("area")
    if area < 0:
        raise reading.invalid(f"'area' is {shown(area)}, but an area is not negative")
    num_keypoints = reading.optional_number("num_keypoints")
    is_crowd = reading.optional_number("iscrowd")
    if is_crowd is None:
        notes.add(_NO_CROWD)
    elif is_crowd != int(is_crowd):
        raise reading.invalid(f"'iscrowd' is {shown(is_crowd)}, not 0 or 1")
    found = _keypoints(reading, num_keypoints, keypoints)
    if entry.get("ignore"):
        notes.add(_IGNORE)
    values = {
        "image_id": image_id,
        "category_id": PERSON_CATEGORY,
        "iscrowd": int(bool(is_crowd)),
        "num_keypoints": num_keypoints,
        "keypoints": _unlabelled(keypoints.num_dataset_keypoints) if found is None else found,
        "bbox": _box(entry.get("bbox")),
        "area": area,
    }
    return _Person(position, values, has_keypoints=found is not None)


def _box(values: object) -> list[Any]:
    """Returns four finite numbers: those of the file, or zeros if it has no usable box."""
    if not isinstance(values, list) or len(values) < len(_NO_BOX):
        return _NO_BOX
    box = values[:4]
    is_usable = _NUMBERS.issuperset(map(type, box)) and _is_near(min(box)) and _is_near(max(box))
    return box if is_usable else _NO_BOX


@cache
def _unlabelled(num_keypoints: int) -> list[Any]:
    """Returns the keypoints of a person without labels, one list for all of them."""
    return [0] * (3 * num_keypoints)


def _keypoints(
    reading: Reading, num_keypoints: float | None, keypoints: KeypointSet
) -> list[Any] | None:
    """Returns three numbers per keypoint: the file's own list if it is valid without changes.

    None if the person has no keypoints.
    """
    values, number = reading.entry.get("keypoints"), 3 * keypoints.num_dataset_keypoints
    if values is None and num_keypoints:
        raise reading.invalid(f"'num_keypoints' is {num_keypoints}, but 'keypoints' is missing")
    if not values and (values is None or isinstance(values, list)):
        reading.notes.add(_NO_KEYPOINTS)
        return None
    if not isinstance(values, list):
        raise reading.invalid(f"'keypoints' is {shown(values)}, not a list of {number} numbers")
    if 3 * len(values) == number and all(
        isinstance(point, list) and len(point) == 3 for point in values
    ):
        reading.notes.add(_NESTED)
        values = [value for point in values for value in point]
    if None in values and len(values) == number:
        values = _without_nulls(values)
    if not _NUMBERS.issuperset(map(type, values)):
        raise reading.invalid(f"'keypoints' is not a list of {number} numbers")
    if len(values) != number:
        if any(values):
            raise reading.invalid(
                f"'keypoints' has {len(values)} numbers, {owner_of(keypoints)} has {number}"
            )
        return None
    return values


def _without_nulls(values: Sequence[Any]) -> list[Any]:
    """Returns keypoints with zeros for the unlabelled ones, whose coordinates may be null."""
    kept: list[Any] = []
    for x, y, visibility in zip(values[::3], values[1::3], values[2::3], strict=True):
        is_absent = (x is None and y is None and visibility is None) or visibility == 0
        kept += (0, 0, 0) if is_absent else (x, y, visibility)
    return kept


def _check_keypoints(people: Sequence[_Person], notes: Notes) -> None:
    """Completes people by their keypoints, and refuses impossible keypoints."""
    keypoints_NxKx3 = _as_array(people)
    labelled_NK = keypoints_NxKx3[..., 2] > 0
    usable_NK = (np.abs(keypoints_NxKx3[..., :2]) <= _MAX_COORDINATE).all(axis=2)
    for index in np.flatnonzero((labelled_NK & ~usable_NK).any(axis=1)).tolist():
        raise _invalid(
            people[index], "'keypoints' has a labelled keypoint at an impossible position"
        )
    is_known_NK = np.isin(keypoints_NxKx3[..., 2], (0, 1, 2))
    notes.add(_ODD_VISIBILITY, int((~is_known_NK).any(axis=1).sum()))
    for index in np.flatnonzero(~(usable_NK & is_known_NK).all(axis=1)).tolist():
        clean_Kx3 = np.where(labelled_NK[index, :, None], keypoints_NxKx3[index], 0)
        clean_Kx3[:, 2] = np.where(is_known_NK[index], clean_Kx3[:, 2], 2) * labelled_NK[index]
        people[index].values["keypoints"] = clean_Kx3.ravel().tolist()
    for person, num_labelled in zip(people, labelled_NK.sum(axis=1).tolist(), strict=True):
        _complete(person, num_labelled, notes)


def _complete(person: _Person, num_labelled: int, notes: Notes) -> None:
    values = person.values
    if values["num_keypoints"] is None:
        values["num_keypoints"] = num_labelled
        notes.add(_COUNTED, person.has_keypoints)
    elif values["num_keypoints"] != num_labelled:
        notes.add(_DISAGREES)
    if not num_labelled and not _is_place(values["bbox"]):
        raise _invalid(person, "no keypoint is labelled, and 'bbox' is not four numbers")
    if not values["area"] and values["num_keypoints"] and not values["iscrowd"]:
        notes.add(_NO_AREA)


def _is_place(box: Sequence[float]) -> bool:
    return box is not _NO_BOX and all(map(_is_near, box))


def _is_near(value: float) -> bool:
    return -_MAX_COORDINATE <= value <= _MAX_COORDINATE


def _as_array(people: Sequence[_Person]) -> npt.NDArray[np.float64]:
    try:
        array = np.array([person.values["keypoints"] for person in people], np.float64)
    except OverflowError:
        for person in people:
            if any(abs(value) > _MAX_COORDINATE for value in person.values["keypoints"]):
                raise _invalid(person, "'keypoints' has a number that cannot be a pixel") from None
        raise
    return array.reshape(len(people), -1, 3)


def _invalid(person: _Person, text: str) -> InvalidEntryError:
    return InvalidEntryError(f"annotations[{person.position}]: {text}")
