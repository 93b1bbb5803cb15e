"""Matches the file names of an annotation file with the names in the image folder.

Annotation tools write names with backslashes, and with folders of the machine that they ran on.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import PurePosixPath, PureWindowsPath

from distributed_pose.data.entries import InvalidEntryError, Notes, shown
from distributed_pose.data.sources import ImageSource

_BACKSLASHES = "File names with backslashes are read with slashes"

# The number of names that are looked up, spread over the file.
_PROBED = 8


def locate_names(names: Sequence[str], source: ImageSource | None, notes: Notes) -> Sequence[str]:
    """Returns the names by which images are read, all of them inside the image folder.

    The names of the file are used if the folder has any of them. Otherwise backslashes become
    slashes, and then leading folders that all names share are removed, as few as necessary.
    Different names stay different, because only shared folders are removed.

    Args:
        names: file names of all images.
        source: source of the images; None if no image is read.
        notes: receives a sentence about the change.

    Raises:
        InvalidEntryError: if a name leaves the image folder.
    """
    located = names
    for candidate, change in _candidates(names):
        if _is_available(candidate, source):
            located = candidate
            if change:
                notes.say(change)
            break
    for name in located:
        if not _stays_inside(name):
            raise InvalidEntryError(
                f"file_name {shown(name)} leaves the image folder",
                "data.images must be a folder below which the images have these names",
            )
    return located


def _candidates(names: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Yields possible interpretations of the names, and a sentence about the change."""
    has_backslashes = any("\\" in name for name in names)
    if not has_backslashes and not any("/" in name for name in names):
        # Plain names have one interpretation, and a look-up may take many requests.
        return
    yield names, ""
    parts = [PurePosixPath(name.replace("\\", "/")).parts for name in names]
    folders = [path[:-1] for path in parts]
    pairs = zip(min(folders), max(folders), strict=False)
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    for number in range(len(shared) + 1):
        change = _BACKSLASHES if has_backslashes else ""
        if number:
            removed = shown("/".join(shared[:number]))
            change = f"File names are read without {removed}, which is not in the image folder"
        yield ["/".join(path[number:]) for path in parts], change


def _is_available(names: Sequence[str], source: ImageSource | None) -> bool:
    if source is None:
        return not any("\\" in name for name in names)
    step = max(1, len(names) // _PROBED)
    return any(_stays_inside(name) and source.size(name) is not None for name in names[::step])


def _stays_inside(name: str) -> bool:
    # Both kinds of paths, because a dataset may have been written on another system.
    paths = PurePosixPath(name), PureWindowsPath(name)
    return not any(path.is_absolute() or path.anchor or ".." in path.parts for path in paths)
