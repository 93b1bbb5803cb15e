"""Reads a COCO keypoint annotation file into an index, and makes all checks of its content.

An index is safe to score and to open: the ground truth is normalised so that COCOeval reads it
correctly, keypoints are those of the keypoint set, and file names stay inside the image folder. A
file that pycocotools can score has the same ten figures here, except where pycocotools is known to
be wrong. Files whose figures would compare different keypoints are refused.
"""

import gc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.data.annotation_file import read_annotation_file
from distributed_pose.data.categories import Category, choose_category, read_categories
from distributed_pose.data.entries import (
    InvalidEntryError,
    JsonObject,
    ListedId,
    Notes,
    Reading,
    objects,
    shown,
)
from distributed_pose.data.image_names import locate_names
from distributed_pose.data.people import note_ids, read_people
from distributed_pose.data.sources import ImageSource
from distributed_pose.errors import SetupError
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.locations import Location
from distributed_pose.metrics.coco_ap import PERSON_CATEGORY
from distributed_pose.metrics.ground_truth import People, people_of
from distributed_pose.records.images import ImageRecord

# JSON can encode lone surrogates; neither they nor a null byte can be part of a file name.
_NO_NAME = re.compile("[\0\ud800-\udfff]")

# Processes exchange ids as 64-bit integers.
_FIRST_ID, _END_ID = -(2**63), 2**63

_LISTED_TWICE = "Images that are listed twice count once"
_SAME_FILE = "Images share their file with another image"
_NOBODY = "No person is labelled outside crowds, so that all figures are undefined"


@dataclass(frozen=True)
class CocoIndex:
    """A checked dataset.

    Attributes:
        images: images to evaluate, in ascending order of id, including those without people.
        listed: all images that have ground truth, including those that a limit excludes.
        people: people of all of these, with all values that COCOeval reads.
        num_images_listed: number of images that the annotation file lists.
        is_labelled: whether the file has annotations; without them no AP can be computed.
        category_id: id of the person's category in the file.
        listed_ids: image ids of the file by our image ids, where they differ.
        notes: sentences about content that was ignored, replaced or assumed.
        sha256: SHA-256 of the annotation file.
        keypoints: keypoint set of the people.
        copies: number of times that each image is listed, all images one time after the other; see
            `repeated`.
    """

    images: tuple[ImageRecord, ...]
    listed: tuple[ImageRecord, ...]
    people: People
    num_images_listed: int
    is_labelled: bool = True
    category_id: ListedId = PERSON_CATEGORY
    listed_ids: Mapping[int, ListedId] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sha256: str = ""
    keypoints: KeypointSet = field(default_factory=coco_body)
    copies: int = 1

    @property
    def is_partial(self) -> bool:
        """Whether a limit excludes some of the listed images."""
        return len(self.images) < self.num_images_listed

    @property
    def ground_truth(self) -> dict[str, Any]:
        """Images and people in COCO's format, made at each access.

        It is normalised: annotation ids from 1, category 1, and all fields that COCOeval reads.
        """
        return {
            "images": [
                {
                    "id": image.image_id,
                    "file_name": image.file_name,
                    "height": image.height,
                    "width": image.width,
                }
                for image in self.listed
            ],
            "annotations": [*self.people.rows()],
            "categories": [
                {
                    "id": PERSON_CATEGORY,
                    "name": "person",
                    "keypoints": [*self.keypoints.dataset_keypoints],
                }
            ],
        }

    def originals(self, image_ids: Sequence[int]) -> npt.NDArray[np.int64]:
        """Returns a number for each image, from 0, which is the same for the copies of an image.

        Args:
            image_ids: ids of some images.
        """
        number = len(self.images) // self.copies
        places = {image.image_id: place % number for place, image in enumerate(self.images)}
        chosen = np.array([places[image_id] for image_id in image_ids], np.int64)
        return np.unique(chosen, return_inverse=True)[1]

    def listed_id(self, image_id: int) -> ListedId:
        """Returns the id that the annotation file gives an image."""
        return self.listed_ids.get(image_id, image_id)

    def as_listed(self, detections: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields detections with the image and category ids of the annotation file.

        Any COCO tool can score them against the user's annotation file.
        """
        for detection in detections:
            yield {
                **detection,
                "image_id": self.listed_id(detection["image_id"]),
                "category_id": self.category_id,
            }


def load_index(
    annotations: Path | str | Location,
    limit: int | None = None,
    category: ListedId | None = None,
    source: ImageSource | None = None,
    keypoints: KeypointSet | None = None,
) -> CocoIndex:
    """Returns the index of an annotation file.

    Args:
        annotations: path or URI of COCO keypoint annotations in JSON.
        limit: number of images to keep, in ascending order of id; None keeps all.
        category: id or name of the person's category; None detects it by its keypoints.
        source: source of the images, by which file names are interpreted; None if no image is
            read.
        keypoints: keypoint set of the people; None for the body of COCO.

    Raises:
        SetupError: if the file cannot be read, is not a COCO keypoint file, or has keypoints other
            than those of the set; names the entry.
    """
    location = Location(annotations)
    try:
        with _without_collector():
            content, sha256 = read_annotation_file(location)
            index = _index(content, limit, category, source, keypoints or coco_body())
            return replace(index, sha256=sha256)
    except InvalidEntryError as error:
        hint = error.hint or "data.annotations must be a COCO person-keypoint annotation file"
        raise SetupError(f"{location}: {error}", hint) from None


def repeated(index: CocoIndex, times: int) -> CocoIndex:
    """Returns a dataset that lists each image several times, each further time with a new id.

    It makes long runs possible with few images.
    """
    if times == 1:
        return index
    first = np.array([image.image_id for image in index.images], np.int64)
    people = index.people.of_images(first)
    places = np.searchsorted(first, people.image_ids_N)
    new_ids = _unused_ids(first.tolist(), (times - 1) * len(first))
    ids = [first]
    images, listed_ids = list(index.images), dict(index.listed_ids)
    for turn in range(2, times + 1):
        ids.append(np.fromiter(islice(new_ids, len(first)), np.int64))
        for image, image_id in zip(index.images, ids[-1].tolist(), strict=True):
            images.append(replace(image, image_id=image_id))
            if index.listed_ids:
                listed_ids[image_id] = f"{index.listed_id(image.image_id)}#{turn}"
    all_images = tuple(images)
    return replace(
        index,
        images=all_images,
        listed=all_images,
        people=people.repeated([some[places] for some in ids]),
        num_images_listed=times * index.num_images_listed,
        listed_ids=listed_ids,
        copies=times * index.copies,
    )


def _unused_ids(used: Sequence[int], number: int) -> Iterator[int]:
    first = 1 + max(used)
    # After the last used id if these fit into 64 bits, otherwise between the used ids.
    if first + number < _END_ID:
        return islice(count(first), number)
    taken = set(used)
    return islice((image_id for image_id in count(1) if image_id not in taken), number)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pauses the garbage collector, which would double the time to read millions of objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _index(
    content: JsonObject,
    limit: int | None,
    wanted: ListedId | None,
    source: ImageSource | None,
    keypoints: KeypointSet,
) -> CocoIndex:
    notes = Notes()
    records = _read_images(objects(content, "images"), notes)
    ids = sorted(records)
    ours = _our_ids(ids)
    names = locate_names([records[one].file_name for one in ids], source, notes)
    notes.add(_SAME_FILE, len(names) - len(set(names)))
    images = tuple(
        replace(records[one], image_id=ours[one], file_name=name)
        for one, name in zip(ids, names, strict=True)
    )
    is_labelled = content.get("annotations") is not None
    has_categories = is_labelled or content.get("categories")
    category = _category(content, wanted, notes, keypoints) if has_categories else None
    people: list[dict[str, Any]] = []
    if is_labelled and category:
        people = _people(content, category, ours, notes, keypoints)
    return CocoIndex(
        images=images[:limit],
        listed=images,
        people=people_of(people),
        num_images_listed=len(images),
        is_labelled=is_labelled,
        category_id=category.id if category else PERSON_CATEGORY,
        listed_ids={our_id: listed for listed, our_id in ours.items() if our_id != listed},
        notes=notes.lines,
        keypoints=keypoints,
    )


def _our_ids(listed: Sequence[ListedId]) -> dict[ListedId, int]:
    """Returns the 64-bit ids that are used internally: the file's if all of them fit."""
    integers = [one for one in listed if isinstance(one, int) and _FIRST_ID <= one < _END_ID]
    if len(integers) == len(listed):
        return {one: one for one in integers}
    return {one: number for number, one in enumerate(listed, 1)}


def _read_images(entries: Sequence[JsonObject], notes: Notes) -> dict[ListedId, ImageRecord]:
    """Returns the images by their ids in the file; their own `image_id` is not set yet."""
    if not entries:
        raise InvalidEntryError("lists no images")
    images: dict[ListedId, ImageRecord] = {}
    for position, entry in enumerate(entries):
        reading = Reading(entry, f"images[{position}]", notes)
        listed_id, image = reading.identifier("id"), _image(reading)
        if images.setdefault(listed_id, image) != image:
            raise InvalidEntryError(f"image id {shown(listed_id)} is listed twice, as two images")
    notes.add(_LISTED_TWICE, len(entries) - len(images))
    if len({isinstance(listed_id, str) for listed_id in images}) > 1:
        raise InvalidEntryError("some image ids are text and some are numbers")
    return images


def _image(reading: Reading) -> ImageRecord:
    name = reading.required("file_name")
    if not isinstance(name, str) or not name or _NO_NAME.search(name):
        raise reading.invalid(f"'file_name' is {shown(name)}, which is not a possible file name")
    height, width = reading.whole("height"), reading.whole("width")
    if not 1 <= height < 2**31 or not 1 <= width < 2**31:
        raise reading.invalid(f"an image of {width}x{height} pixels")
    return ImageRecord(0, name, height, width)


def _category(
    content: JsonObject, wanted: ListedId | None, notes: Notes, keypoints: KeypointSet
) -> Category:
    category = choose_category(read_categories(content, notes), wanted, notes, keypoints)
    if category.id != PERSON_CATEGORY:
        notes.say(f"The people are the annotations of category {category}")
    return category


def _people(
    content: JsonObject,
    category: Category,
    ours: Mapping[ListedId, int],
    notes: Notes,
    keypoints: KeypointSet,
) -> list[dict[str, Any]]:
    entries = objects(content, "annotations")
    note_ids(entries, notes)
    people = read_people(entries, category, ours, notes, keypoints)
    if not any(person["num_keypoints"] and not person["iscrowd"] for person in people):
        notes.say(_NOBODY)
    return people
