"""Detects the layout of a folder of recorded maps from the names and sizes of its files.

The guide's `cann-benchmark` writes text and numbers a model's outputs from 1; `ais_bench` writes
binary or text and numbers them from 0; a model has two outputs or, with the first stage, four.
The folder itself does not say which of these it holds.
"""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from distributed_pose.errors import SetupError
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.recordings.pads import PAD_FILE
from distributed_pose.recordings.values import read_text

_LOG = logging.getLogger(__name__)

CARD_FILE = "recording.json"

# Numbers with leading zeros belong to the image, as in COCO_val2014_000000000042.bin.
_OUTPUT = re.compile(r"(?P<name>.+)_(?P<number>0|[1-9]\d?)(?P<suffix>\.bin|\.txt)")

_NUMBERS = ((0, 1), (1, 2), (0, 1, 2, 3), (1, 2, 3, 4))

_VALUE_BYTES = {"float32": 4, "float16": 2}

# The size of a text file is known only after reading it. Three are read, as one may be damaged.
_SAMPLES = 3

_STRAYS_SHOWN = 3


@dataclass(frozen=True)
class Layout:
    """The names and the type of the files that hold an image's maps.

    Attributes:
        suffix: `.bin` or `.txt`.
        numbers: numbers of all outputs, as in the file names.
        heatmaps: number of the last stage's heatmaps.
        pafs: number of the last stage's PAFs.
        dtype: type of the values in binary files, `float32` or `float16`.
    """

    suffix: str
    numbers: tuple[int, ...]
    heatmaps: int
    pafs: int
    dtype: str = "float32"

    def file_name(self, name: str, number: int) -> str:
        """Returns the file name of one output of an image."""
        return f"{name}_{number}{self.suffix}"


@dataclass(frozen=True)
class FileFacts:
    """Size of a file, and time of its last change."""

    size_bytes: int
    changed_ns: int


# Files by name of the image, number of the output, and suffix.
Found = Mapping[tuple[str, int, str], FileFacts]


def scan(folder: Path) -> Found:
    """Returns the outputs in a folder; logs a warning about all other files.

    Raises:
        SetupError: if it is not a folder, or has no outputs.
    """
    try:
        with os.scandir(folder) as entries:
            files = [(e.name, e.stat()) for e in entries if e.is_file()]
    except OSError as error:
        raise SetupError(f"cannot list {folder}: {error.strerror}", "it must be a folder") from None
    found: dict[tuple[str, int, str], FileFacts] = {}
    strays = []
    for file_name, stat in files:
        if match := _OUTPUT.fullmatch(file_name):
            key = match["name"], int(match["number"]), match["suffix"]
            found[key] = FileFacts(stat.st_size, stat.st_mtime_ns)
        elif file_name not in {PAD_FILE, CARD_FILE}:
            strays.append(file_name)
    if not found:
        raise SetupError(
            f"{folder} holds no outputs among its {len(files)} files",
            "outputs are named NAME_0.bin, NAME_1.txt and so on",
        )
    _warn(folder, sorted(strays))
    return found


def find_layout(
    folder: Path, found: Found, grids: Mapping[str, tuple[int, int]], keypoints: KeypointSet
) -> Layout:
    """Returns the layout of a folder.

    Args:
        folder: folder of the outputs.
        found: outputs in the folder, as `scan` returns them.
        grids: height and width of the maps in cells, by name of the image.
        keypoints: keypoint set of the maps.

    Raises:
        SetupError: if no layout, or more than one, fits the files; lists their numbers and sizes.
    """
    suffix, numbers = _suffix(folder, found), _numbers(folder, found)
    known = {key: facts for key, facts in found.items() if key[0] in grids}
    if not known:
        first = _file_name(min(found))
        raise SetupError(f"{folder} has outputs of other images only, such as {first}")
    if suffix == ".bin":
        sizes = {number: _bytes_per_cell(known, number, grids) for number in numbers}
        dtype, kinds = _of_bytes(sizes.values(), keypoints)
    else:
        sizes = {number: _values_per_cell(folder, known, number, grids) for number in numbers}
        dtype, kinds = "float32", _kinds(sizes.values(), 1, keypoints)
    if kinds[-2:] not in {"HP", "PH"} or kinds != kinds[-2:] * (len(kinds) // 2):
        raise _ambiguous(folder, sizes, suffix, keypoints)
    last = dict(zip(kinds[-2:], numbers[-2:], strict=True))
    return Layout(suffix, numbers, last["H"], last["P"], dtype)


def missing_file(found: Found, layout: Layout, name: str) -> str:
    """Returns the file name of the first output that an image lacks, or "" if it has all."""
    numbers = (n for n in layout.numbers if (name, n, layout.suffix) not in found)
    return next((layout.file_name(name, number) for number in numbers), "")


def check_complete(
    folder: Path, found: Found, layout: Layout, names: Iterable[str], listed_in: str
) -> None:
    """Checks that each image has all outputs, and that no other image has any.

    Args:
        folder: folder of the outputs.
        found: outputs in the folder, as `scan` returns them.
        layout: layout of the folder.
        names: names of the images, without suffix.
        listed_in: name of the file that lists the images, for messages.

    Raises:
        SetupError: if an output is missing or belongs to another image; names its file.
    """
    expected = set(names)
    for name in sorted(expected):
        if missing := missing_file(found, layout, name):
            raise SetupError(f"{folder / missing} is missing", f"{listed_in} lists its image")
    if strangers := sorted(key for key in found if key[0] not in expected):
        first = folder / _file_name(strangers[0])
        more = f", and {len(strangers) - 1} more files" if len(strangers) > 1 else ""
        raise SetupError(f"{first} belongs to no image that {listed_in} lists{more}")


def _suffix(folder: Path, found: Found) -> str:
    counts = Counter(suffix for _, _, suffix in found)
    if len(counts) > 1:
        what = " and ".join(f"{count} files {suffix}" for suffix, count in sorted(counts.items()))
        raise SetupError(f"{folder} is ambiguous: it has {what}", "keep the files of one kind")
    return next(iter(counts))


def _numbers(folder: Path, found: Found) -> tuple[int, ...]:
    files: dict[int, list[str]] = defaultdict(list)
    for key in sorted(found):
        files[key[1]].append(_file_name(key))
    numbers = tuple(sorted(files))
    if numbers not in _NUMBERS:
        what = ", ".join(f"_{n} in {len(f)} such as {f[0]}" for n, f in sorted(files.items()))
        raise SetupError(
            f"{folder} is ambiguous: its outputs are {what}",
            "expected two or four, numbered from 0 or from 1",
        )
    return numbers


def _bytes_per_cell(
    found: Found, number: int, grids: Mapping[str, tuple[int, int]]
) -> float | None:
    sizes = {name: facts.size_bytes for (name, n, _), facts in found.items() if n == number}
    return _usual(size / prod(grids[name]) for name, size in sizes.items())


def _values_per_cell(
    folder: Path, found: Found, number: int, grids: Mapping[str, tuple[int, int]]
) -> float | None:
    counts = []
    for key in sorted(key for key in found if key[1] == number)[:_SAMPLES]:
        try:
            count = read_text(folder / _file_name(key)).size
        # The error is reported when the image is read. A folder without a readable file is
        # ambiguous.
        except SetupError:
            continue
        counts.append(count / prod(grids[key[0]]))
    return _usual(counts)


def _usual(values: Iterable[float]) -> float | None:
    return next((value for value, _ in Counter(values).most_common(1)), None)


def _of_bytes(sizes: Collection[float | None], keypoints: KeypointSet) -> tuple[str, str]:
    """Returns the type of the values and the kinds of the outputs.

    PAFs in float16 have as many bytes as heatmaps in float32, so only both together are unique.
    """
    by_type = {dtype: _kinds(sizes, each, keypoints) for dtype, each in _VALUE_BYTES.items()}
    fitting = [(dtype, kinds) for dtype, kinds in by_type.items() if set(kinds) == {"H", "P"}]
    return fitting[0] if fitting else ("", "?")


def _kinds(sizes: Iterable[float | None], each: int, keypoints: KeypointSet) -> str:
    """Returns one letter per output: H for heatmaps, P for PAFs, ? for neither.

    Where a set has as many heatmaps as PAF channels, heatmaps come first, as the network and
    `--dump-maps` write them.
    """
    heatmaps, pafs = keypoints.num_heatmaps * each, keypoints.num_pafs * each
    if heatmaps == pafs:
        return "".join("HP"[n % 2] if size == pafs else "?" for n, size in enumerate(sizes))
    letters: dict[float | None, str] = {heatmaps: "H", pafs: "P"}
    return "".join(letters.get(size, "?") for size in sizes)


def _ambiguous(
    folder: Path, sizes: Mapping[int, float | None], suffix: str, keypoints: KeypointSet
) -> SetupError:
    unit = "bytes" if suffix == ".bin" else "values"
    what = ", ".join(
        f"_{number}{suffix} of {'unknown size' if size is None else f'{size:g} {unit} per cell'}"
        for number, size in sizes.items()
    )
    return SetupError(
        f"{folder} is ambiguous: it has {what}",
        f"keypoint set {keypoints.name} has pairs of heatmaps, {keypoints.num_heatmaps} values per "
        f"cell, and PAFs, {keypoints.num_pafs}, in text, float32 or float16: set keypoints to the "
        "set of the maps",
    )


def _warn(folder: Path, strays: list[str]) -> None:
    if strays:
        shown = ", ".join(strays[:_STRAYS_SHOWN])
        more = f" and {len(strays) - _STRAYS_SHOWN} more" if len(strays) > _STRAYS_SHOWN else ""
        _LOG.warning("%s: ignored files that are not outputs: %s%s", folder, shown, more)


def _file_name(key: tuple[str, int, str]) -> str:
    return f"{key[0]}_{key[1]}{key[2]}"
