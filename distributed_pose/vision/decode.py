"""Encoded images to pixels, as OpenCV decodes them, and what their decoder says against them.

Array legend: H and W size in pixels, 3 the channels in OpenCV's order blue, green, red.
"""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.vision import jpeg, tiff
from distributed_pose.vision.headers import (
    JPEG_START,
    TIFF_STARTS,
    Header,
    UndecodableImageError,
    read_header,
)

# An image is kept as bytes and normalised as floats, 15 bytes a pixel together, or 27 where the
# profile computes in double: 2 or 3.6 GB.
MAX_IMAGE_PIXELS = 2**27

_SILENT = 0


def set_opencv_log_level(level: int) -> int:
    """Returns the level of OpenCV's log before it is set to this one; 0 is silent."""
    # OpenCV 5 moved the functions, which 4 has at its root alone.
    functions = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    before = int(functions.getLogLevel())
    functions.setLogLevel(level)
    return before


# What it logs of a damaged image is returned or raised as well, and a log would name no image.
set_opencv_log_level(_SILENT)


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        image_HW3: uint8, BGR, turned as its EXIF orientation says.
        damage: what libjpeg or libtiff says of a file whose data is damaged and decodes to
            something all the same; empty for a whole file, and where no decoder can tell.
    """

    image_HW3: npt.NDArray[np.uint8]
    damage: str = ""


def decode_image(encoded: bytes, height: int, width: int) -> Decoded:
    """Returns an image and whether it is damaged; the pixels are those that OpenCV decodes.

    Args:
        encoded: a file of one of the formats that `read_header` reads.
        height: expected height in pixels.
        width: expected width in pixels.

    Raises:
        UndecodableImageError: if it is empty, truncated, no image, or of another size.
    """
    if height * width > MAX_IMAGE_PIXELS:
        raise UndecodableImageError(
            f"the annotation says {width}x{height}, over the limit of {MAX_IMAGE_PIXELS} pixels"
        )
    header = _whole_header(encoded)
    if header.height * header.width > height * width:
        raise _wrong_size(header.height, header.width, height, width)
    decoded = _decode(encoded, header)
    found_height, found_width = decoded.image_HW3.shape[:2]
    if (found_height, found_width) != (height, width):
        raise _wrong_size(found_height, found_width, height, width)
    return decoded


def decode_unlisted_image(encoded: bytes) -> Decoded:
    """Returns an image that no annotation gives the size of, as `decode_image` does.

    Raises:
        UndecodableImageError: if it is empty, truncated or no image, or of more pixels than
            `MAX_IMAGE_PIXELS`.
    """
    header = _whole_header(encoded)
    if header.height * header.width > MAX_IMAGE_PIXELS:
        raise UndecodableImageError(
            f"the image is {header.width}x{header.height}, over the limit of {MAX_IMAGE_PIXELS} "
            "pixels"
        )
    return _decode(encoded, header)


def _decode(encoded: bytes, header: Header) -> Decoded:
    if encoded.startswith(TIFF_STARTS):
        return Decoded(_decode_by_opencv(encoded), tiff.find_damage(encoded))
    if not encoded.startswith(JPEG_START):
        return Decoded(_decode_by_opencv(encoded))
    if header.may_turn or header.num_components not in {1, 3}:
        return Decoded(_decode_by_opencv(encoded), jpeg.find_damage(encoded))
    image_HW3, damage = jpeg.decode_upright(encoded)
    return Decoded(_decode_by_opencv(encoded) if image_HW3 is None else image_HW3, damage)


def _decode_by_opencv(encoded: bytes) -> npt.NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        reason = " ".join(error.err.split())
        raise UndecodableImageError(f"OpenCV cannot decode it: {reason}") from None
    if image is None:
        raise UndecodableImageError("not an image that OpenCV can decode")
    return image.astype(np.uint8, copy=False)


def _whole_header(encoded: bytes) -> Header:
    """Returns the header, after which OpenCV cannot be misled by what it says.

    It decodes what there is of a truncated JPEG, in some versions, and fills the rest with grey.
    It makes room for whatever size a header claims: of a few bytes, gigabytes.
    """
    if not encoded:
        raise UndecodableImageError("the file is empty")
    header = read_header(encoded)
    if header.is_cut_off:
        raise UndecodableImageError("the file is truncated")
    return header


def _wrong_size(
    found_height: int, found_width: int, height: int, width: int
) -> UndecodableImageError:
    found = f"{found_width}x{found_height}"
    return UndecodableImageError(f"the image is {found}, its annotation says {width}x{height}")
