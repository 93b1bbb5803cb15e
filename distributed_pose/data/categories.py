"""Chooses the category of an annotation file that is the person with COCO's 17 keypoints."""

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
from distributed_pose.pose.skeleton import COCO_KEYPOINTS, NUM_COCO_KEYPOINTS

_PERSON = "person"

# Limits how many categories or keypoints a message lists.
_MAX_NAMED = 5

# Characters that are ignored when names are compared: "Left Eye" equals "left-eye".
_SEPARATORS = re.compile(r"[\s_.\-]+")
_COCO = tuple(_SEPARATORS.sub("", name) for name in COCO_KEYPOINTS)

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
    categories: Sequence[Category], wanted: ListedId | None, notes: Notes
) -> Category:
    """Returns the category whose annotations are scored.

    This is the wanted one; otherwise the one with COCO's keypoints; otherwise, if no category
    names its keypoints, the only category or the only one with the name person.

    Args:
        categories: all categories of the file.
        wanted: id or name of the category; None chooses it by its keypoints.
        notes: receives a sentence if keypoints without names are taken for COCO's.

    Raises:
        InvalidEntryError: if no category or more than one fits, or its keypoints are not COCO's.
    """
    chosen = _requested(categories, wanted) if wanted is not None else _detected(categories)
    _check_keypoints(chosen)
    if not chosen.keypoints:
        notes.say(
            f"Category {chosen} does not name its keypoints; they are assumed to be COCO's 17"
        )
    return chosen


def same_id(one: object, other: object) -> bool:
    """Returns whether two category ids are equal; one of them may be written as text."""
    return one == other or str(one) == str(other)


def _requested(categories: Sequence[Category], wanted: ListedId) -> Category:
    matches = [category for category in categories if category.has_id(wanted)]
    matches = matches or [category for category in categories if category.name == str(wanted)]
    return _only(matches, f"data.category is {shown(wanted)}, and the file has", categories)


def _detected(categories: Sequence[Category]) -> Category:
    named = [category for category in categories if category.keypoints]
    if fitting := [category for category in named if _is_coco(category)]:
        return _only(fitting, "COCO's 17 keypoints belong to", fitting)
    if len(named) == 1:
        return named[0]
    if named:
        raise InvalidEntryError(
            f"no category has COCO's 17 keypoints; the file has {_listing(named)}", _CHOOSE
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


def _check_keypoints(category: Category) -> None:
    """Refuses keypoints that are not COCO's, because AP would compare different keypoints."""
    if not category.keypoints or _is_coco(category):
        return
    if len(category.keypoints) != NUM_COCO_KEYPOINTS:
        raise InvalidEntryError(
            f"category {category} has {len(category.keypoints)} keypoints, COCO's person has 17"
        )
    spelled = _spelled(category)
    is_order = sorted(spelled) == sorted(_COCO)
    what = "COCO's keypoints in another order" if is_order else "other keypoints than COCO's person"
    differing = [
        f"{shown(name)} in place of {shown(coco)}"
        for name, coco, plain, plain_coco in zip(
            category.keypoints, COCO_KEYPOINTS, spelled, _COCO, strict=True
        )
        if plain != plain_coco
    ]
    more = f" and {len(differing) - _MAX_NAMED} more" if len(differing) > _MAX_NAMED else ""
    raise InvalidEntryError(
        f"category {category} has {what}: {', '.join(differing[:_MAX_NAMED])}{more}",
        "AP would compare different keypoints; if they are COCO's, use COCO's names in the file",
    )


def _is_coco(category: Category) -> bool:
    return _spelled(category) == _COCO


def _spelled(category: Category) -> tuple[str, ...]:
    return tuple(_SEPARATORS.sub("", name).casefold() for name in category.keypoints)
