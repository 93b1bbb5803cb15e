"""Encoded images to network inputs, exactly as the profiles define it.

Array legend: H and W size in pixels, 3 the channels in OpenCV's order blue, green, red.
"""

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.records import Geometry
from distributed_pose.vision.profiles import Profile

_MEAN = np.float32(128)
_SCALE = np.float32(1 / 256)

_JPEG_START = b"\xff\xd8"
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"


class UndecodableImageError(ValueError):
    """Bytes that are not a whole image; the message says in what way."""


def decode_image(encoded: bytes, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Returns the image as uint8 [H, W, 3], BGR, turned as its EXIF orientation says.

    Args:
        encoded: a JPEG, PNG or another format that OpenCV reads.
        height: expected height in pixels.
        width: expected width in pixels.

    Raises:
        UndecodableImageError: if it is empty, truncated, no image, or of another size.
    """
    if not encoded:
        raise UndecodableImageError("the file is empty")
    # OpenCV decodes what there is of a truncated JPEG and fills the rest with grey. Within a scan
    # a marker byte is always escaped, so the end marker is missing exactly if it is cut off.
    if encoded.startswith(_JPEG_START) and encoded.rfind(_JPEG_END) < encoded.rfind(_JPEG_SCAN):
        raise UndecodableImageError("the JPEG is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise UndecodableImageError("not an image that OpenCV can decode")
    if image.shape[:2] != (height, width):
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise UndecodableImageError(f"the image is {found}, its annotation says {width}x{height}")
    return image.astype(np.uint8, copy=False)


def preprocess(
    image_HW3: npt.NDArray[np.uint8], profile: Profile
) -> tuple[npt.NDArray[np.float32], Geometry]:
    """Returns the network input, float32 [3, H, W] BGR `(x - 128) / 256`, and its geometry.

    Normalisation comes before the resize, as in both reference pipelines: the other order is
    cheaper and rounds differently. Padding is 0 after normalisation, centred, the smaller half
    at the top and left.
    """
    image_height, image_width = image_HW3.shape[:2]
    normalised = (image_HW3.astype(np.float32) - _MEAN) * _SCALE
    resized = _resize(normalised, profile.scale(image_height, image_width), profile.interpolation)
    height, width = resized.shape[:2]
    canvas_height, canvas_width = profile.canvas(width)
    top, left = (canvas_height - height) // 2, (canvas_width - width) // 2
    input_3HW = np.zeros((3, canvas_height, canvas_width), np.float32)
    input_3HW[:, top : top + height, left : left + width] = resized.transpose(2, 0, 1)
    bottom, right = canvas_height - height - top, canvas_width - width - left
    return input_3HW, Geometry(image_height, image_width, top, left, bottom, right)


def _resize(
    image_HW3: npt.NDArray[np.float32], scale: float, interpolation: int
) -> npt.NDArray[np.float32]:
    height, width = image_HW3.shape[:2]
    if min(height, width) * scale > 0.5:
        # By factors and not by size: OpenCV samples at the inverse of what it is given.
        resized = cv2.resize(image_HW3, None, fx=scale, fy=scale, interpolation=interpolation)
    else:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = cv2.resize(image_HW3, size, interpolation=interpolation)
    return np.asarray(resized, np.float32)
