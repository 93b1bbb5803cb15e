"""Reads and writes `pad.txt`, which has one line per image with its size and padding.

A line is `NAME.jpg height width top bottom left right`: the size in image pixels and the padding in
input pixels.
"""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

from distributed_pose.errors import SetupError
from distributed_pose.files.local import read_regular
from distributed_pose.records.images import STRIDE, Geometry, ImageRecord, InputSize
from distributed_pose.vision.decode import MAX_IMAGE_PIXELS
from distributed_pose.vision.profiles import PROFILES, Profile

PAD_FILE = "pad.txt"

# The longest side of an image that OpenCV reads.
_MAX_SIDE = 2**20

_HINT = "pad.txt has lines such as: 000000000139.jpg 426 640 0 0 43 44"

# A line has about fifty bytes, and a dataset has at most a few hundred thousand images.
_MAX_FILE_BYTES = 2**26

# File names need not be valid UTF-8.
_ENCODING, _ERRORS = "utf-8", "surrogateescape"


def pads_content(pads: Iterable[tuple[str, Geometry]]) -> bytes:
    """Returns the content of a `pad.txt`.

    Args:
        pads: file name and geometry of each image.

    Raises:
        SetupError: if a name contains a line break.
    """
    return "".join(_line(name, geometry) for name, geometry in pads).encode(_ENCODING, _ERRORS)


def read_pads(path: Path) -> dict[str, Geometry]:
    """Returns the geometry of each image by its file name, in the order of the lines.

    Raises:
        SetupError: if the file cannot be read, or a line does not have its format; names the line.
    """
    try:
        lines = read_regular(path, _MAX_FILE_BYTES).decode(_ENCODING, _ERRORS).splitlines()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", _HINT) from None
    pads: dict[str, Geometry] = {}
    for number, line in enumerate(lines, 1):
        # From the right, because names may contain blanks.
        name, *numbers = line.strip().rsplit(" ", 6)
        if len(numbers) != 6 or not all(map(_is_count, numbers)):
            raise SetupError(
                f"{path}, line {number}: {line[:100]!r} is not a line of pad.txt", _HINT
            )
        if name in pads:
            raise SetupError(f"{path}, line {number}: {name} is listed twice", "delete one line")
        height, width, top, bottom, left, right = map(int, numbers)
        pads[name] = Geometry(height, width, top, left, bottom, right)
    if not pads:
        raise SetupError(f"{path} lists no images", _HINT)
    return pads


def maps_grid(name: str, geometry: Geometry, size: InputSize | None = None) -> tuple[int, int]:
    """Returns height and width of an image's maps in cells.

    Args:
        name: file name of the image.
        geometry: geometry from a `pad.txt`, which does not contain the size of the input.
        size: size of the inputs; None for the size of the profile.

    Raises:
        SetupError: if no profile has that geometry, or the image is over the size limit.
    """
    image = geometry.image_height, geometry.image_width
    if prod(image) > MAX_IMAGE_PIXELS or max(image) > _MAX_SIDE:
        raise SetupError(
            f"pad.txt: {name} is of {image[1]}x{image[0]} pixels, over the limit of "
            f"{MAX_IMAGE_PIXELS} in total and {_MAX_SIDE} per side",
            "remove its line from pad.txt",
        )
    for profile in (profile.sized(size) for profile in PROFILES.values()):
        if profile.geometry(*image) == geometry:
            _, height, width = profile.input_shape(*image)
            return height // STRIDE, width // STRIDE
    raise SetupError(
        f"pad.txt: no profile has the padding of {name}, an image of {image[1]}x{image[0]} pixels",
        "write pad.txt with `distributed-pose guide preprocess`, and give both steps the same "
        "--input",
    )


def output_names(images: Iterable[ImageRecord]) -> dict[int, str]:
    """Returns the base name of the files of each image, by image id: its file name without suffix.

    Raises:
        SetupError: if two images would have files of the same name.
    """
    names: dict[int, str] = {}
    owners: dict[str, str] = {}
    for image in images:
        name = output_name(image.file_name)
        if name in owners:
            raise SetupError(
                f"the maps of {owners[name]} and {image.file_name} would have the same file names"
            )
        names[image.image_id], owners[name] = name, image.file_name
    return names


def output_name(file_name: str) -> str:
    """Returns the base name of the files of an image."""
    return Path(file_name).stem


def check_pads(
    path: Path, pads: Mapping[str, Geometry], images: Iterable[ImageRecord], profile: Profile
) -> None:
    """Checks that the listed images have the padding of a profile; skips images without a line.

    Raises:
        SetupError: if an image has another padding; names it.
    """
    for image in images:
        found = pads.get(Path(image.file_name).name)
        if found and found != profile.geometry(image.height, image.width):
            raise SetupError(
                f"{path}: {image.file_name} was not preprocessed with profile {profile.name} "
                f"at {profile.size}, or is not of {image.width}x{image.height} pixels",
                "set profile and input to those of the recorded run",
            )


def _line(name: str, geometry: Geometry) -> str:
    if len(name.splitlines()) != 1:
        raise SetupError(
            f"{name!r} has a line break in it, and pad.txt has one line per image",
            "rename the image",
        )
    g = geometry
    padding = f"{g.pad_top} {g.pad_bottom} {g.pad_left} {g.pad_right}"
    return f"{name} {g.image_height} {g.image_width} {padding}\n"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
