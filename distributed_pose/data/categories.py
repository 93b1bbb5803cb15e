"""Chooses the category of an annotation file that has the keypoints of a keypoint set."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from distributed_pose.data.entries import (
    InvalidEntryError,
    JsonObject,
    ListedId,
    Notes,
    Reading,
    shown,
)
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet

_PERSON = "person"

# Limits how many categories or keypoints a message lists.
_MAX_NAMED = 5

# Characters that are ignored when names are compared: "Left Eye" equals "left-eye".
_SEPARATORS = re.compile(r"[\s_.\-]+")

_CHOOSE = "choose one by id or name with data.category (guide postprocess: --category)"


@dataclass(frozen=True)
class Category:
    """A category of an annotation file.

    Attributes:
        id: id of the category in the file.
        name: name of the category; empty if the file has none.
        keypoints: names of its keypoints; empty if the file has none.
    """

    id: ListedId
    name: str
    keypoints: tuple[str, ...]

    def __str__(self) -> str:
        return f"{shown(self.id)} {shown(self.name)}" if self.name else shown(self.id)

    def has_id(self, value: object) -> bool:
        """Returns whether an annotation's `category_id` means this category."""
        return same_id(self.id, value)


def read_categories(content: JsonObject, notes: Notes) -> list[Category]:
    """Returns the categories of an annotation file.

    Raises:
        InvalidEntryError: if the file has no list of categories, or one of them has no id.
    """
    entries = content.get("categories")
    if not isinstance(entries, list) or not entries:
        raise InvalidEntryError("has no list 'categories', so the annotated person is unknown")
    categories = []
    for position, entry in enumerate(entries):
        where = f"categories[{position}]"
        if not isinstance(entry, dict):
            raise InvalidEntryError(f"{where} is {shown(entry)}, not an object")
        number = Reading(entry, where, notes).identifier("id")
        name, names = entry.get("name"), entry.get("keypoints")
        listed = tuple(map(str, names)) if isinstance(names, list) else ()
        categories.append(Category(number, name if isinstance(name, str) else "", listed))
    # Equal entries are one category.
    return list(dict.fromkeys(categories))


def choose_category(
    categories: Sequence[Category],
    wanted: ListedId | None,
    notes: Notes,
    keypoints: KeypointSet,
) -> Category:
    """Returns the category whose annotations are scored.

    This is the wanted one; otherwise the one with the keypoints of the set; otherwise, if no
    category names its keypoints, the only category or the only one with the name person.

    Args:
        categories: all categories of the file.
        wanted: id or name of the category; None chooses it by its keypoints.
        notes: receives a sentence if keypoints without names are taken for those of the set.
        keypoints: keypoint set of the run.

    Raises:
        InvalidEntryError: if no category or more than one fits, or its keypoints are not those of
            the set in their order.
    """
    if wanted is not None:
        chosen = _requested(categories, wanted)
    else:
        chosen = _detected(categories, keypoints)
    _check_keypoints(chosen, keypoints)
    if not chosen.keypoints:
        names = "COCO's 17" if keypoints == coco_body() else keypoints_of(keypoints)
        notes.say(f"Category {chosen} does not name its keypoints; they are assumed to be {names}")
    return chosen


def owner_of(keypoints: KeypointSet) -> str:
    """Returns the words by which messages name a keypoint set."""
    return "COCO's person" if keypoints == coco_body() else f"the keypoint set {keypoints.name}"


def keypoints_of(keypoints: KeypointSet) -> str:
    """Returns the words by which messages name the dataset's keypoints of a set."""
    if keypoints == coco_body():
        return "COCO's 17 keypoints"
    number = keypoints.num_dataset_keypoints
    return f"the {number} keypoints of the keypoint set {keypoints.name}"


def same_id(one: object, other: object) -> bool:
    """Returns whether two category ids are equal; one of them may be written as text."""
    return one == other or str(one) == str(other)


def _requested(categories: Sequence[Category], wanted: ListedId) -> Category:
    matches = [category for category in categories if category.has_id(wanted)]
    matches = matches or [category for category in categories if category.name == str(wanted)]
    return _only(matches, f"data.category is {shown(wanted)}, and the file has", categories)


def _detected(categories: Sequence[Category], keypoints: KeypointSet) -> Category:
    named = [category for category in categories if category.keypoints]
    if fitting := [category for category in named if _fits(category, keypoints)]:
        return _only(fitting, f"{keypoints_of(keypoints)} belong to", fitting)
    if len(named) == 1:
        return named[0]
    if named:
        raise InvalidEntryError(
            f"no category has {keypoints_of(keypoints)}; the file has {_listing(named)}", _CHOOSE
        )
    persons = [category for category in categories if category.name.casefold() == _PERSON]
    if not persons and len(categories) == 1:
        return categories[0]
    return _only(persons, "no category names its keypoints; the file has", categories)


def _only(matches: Sequence[Category], text: str, available: Sequence[Category]) -> Category:
    if len(matches) != 1:
        raise InvalidEntryError(f"{text} {_listing(available)}", _CHOOSE)
    return matches[0]


def _listing(categories: Sequence[Category]) -> str:
    listed = ", ".join(map(str, categories[:_MAX_NAMED]))
    more = len(categories) - _MAX_NAMED
    plural = "categories" if len(categories) > 1 else "category"
    return f"{plural} {listed}" + (f" and {more} more" if more > 0 else "")


def _check_keypoints(category: Category, keypoints: KeypointSet) -> None:
    """Refuses keypoints that are not those of the set: AP would compare different keypoints."""
    if not category.keypoints or _fits(category, keypoints):
        return
    owner, number = owner_of(keypoints), keypoints.num_dataset_keypoints
    if len(category.keypoints) != number:
        raise InvalidEntryError(
            f"category {category} has {len(category.keypoints)} keypoints, {owner} has {number}",
            "set keypoints (score: --keypoints) to the file of a set with the category's keypoints",
        )
    spelled, names = _spelled(category.keypoints), _spelled(keypoints.dataset_keypoints)
    is_order = sorted(spelled) == sorted(names)
    what = (
        f"the keypoints of {owner} in another order"
        if is_order
        else f"other keypoints than {owner}"
    )
    raise InvalidEntryError(
        f"category {category} has {what}: {_differences(category, keypoints)}",
        "AP would compare different keypoints; if they only have other names, use the names of "
        f"{owner} in the file",
    )


def _differences(category: Category, keypoints: KeypointSet) -> str:
    listed, names = category.keypoints, keypoints.dataset_keypoints
    differing = [
        f"{shown(one)} in place of {shown(name)}"
        for one, name, plain, plain_name in zip(
            listed, names, _spelled(listed), _spelled(names), strict=True
        )
        if plain != plain_name
    ]
    more = f" and {len(differing) - _MAX_NAMED} more" if len(differing) > _MAX_NAMED else ""
    return ", ".join(differing[:_MAX_NAMED]) + more


def _fits(category: Category, keypoints: KeypointSet) -> bool:
    return _spelled(category.keypoints) == _spelled(keypoints.dataset_keypoints)


def _spelled(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_SEPARATORS.sub("", name).casefold() for name in names)
