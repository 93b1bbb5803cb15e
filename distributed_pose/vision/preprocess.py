"""Turns images into network inputs, exactly as the profiles define it.

Most of the time goes to reading and writing memory, so no pass over the image is repeated.

Array legend: H and W size in pixels, 3 the channels in OpenCV's order blue, green, red.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.records.images import BYTE_RANGE, MEAN_BYTE, Geometry, ImageRecord
from distributed_pose.vision.decode import decode_image
from distributed_pose.vision.profiles import Profile

# One network input or a batch of them, in the type of the profile.
InputArray = npt.NDArray[np.float32 | np.uint8]

# An image in the type that its profile computes in.
_ImageArray = npt.NDArray[np.float64 | np.float32 | np.uint8]

_CV_DEPTHS = {np.float32: cv2.CV_32F, np.float64: cv2.CV_64F}


def preprocess(
    image_HW3: npt.NDArray[np.uint8], profile: Profile, out_3HW: InputArray | None = None
) -> tuple[InputArray, Geometry]:
    """Returns the network input, [3, H, W] BGR, and its geometry.

    The input is float32 `(x - 128) / 256`, or uint8 in a profile on bytes. A profile that computes
    in another type rounds once, at the end. Normalisation comes before the resize, as in both
    reference pipelines; the opposite order, and a resize of bytes, round differently. The padding
    is the value that 128 becomes. The image is centred, with the smaller half of the padding at
    the top and left.

    Args:
        image_HW3: uint8 [H, W, 3], BGR.
        profile: defines scale, padding and type.
        out_3HW: array to write the input to, such as a row of a batch, of shape
            `profile.input_shape` and type `profile.input_dtype`. None creates a new array.
    """
    if out_3HW is None:
        shape = profile.input_shape(*image_HW3.shape[:2])
        out_3HW = np.empty(shape, profile.input_dtype)
    return out_3HW, _write_input(_normalised(image_HW3, profile), profile, out_3HW)


def preprocess_scales(
    image_HW3: npt.NDArray[np.uint8], profiles: Sequence[Profile], outs_3HW: Sequence[InputArray]
) -> tuple[Geometry, ...]:
    """Writes the network input of an image at each scale, and returns the geometries.

    The image is normalised once. For the inputs, see `preprocess`.

    Args:
        image_HW3: uint8 [H, W, 3], BGR.
        profiles: profiles that differ in their scale factor only.
        outs_3HW: array per profile to write the input to, of shape `Profile.input_shape`.
    """
    normalised = _normalised(image_HW3, profiles[0])
    pairs = zip(profiles, outs_3HW, strict=True)
    return tuple(_write_input(normalised, profile, out_3HW) for profile, out_3HW in pairs)


def network_input(
    encoded: bytes, record: ImageRecord, profile: Profile
) -> tuple[InputArray, Geometry]:
    """Returns the network input of an encoded image, and its geometry; see `preprocess`.

    Args:
        encoded: content of the image's file, which may be damaged.
        record: listed facts of the image.
        profile: preprocessing profile.

    Raises:
        UndecodableImageError: if `decode_image` raises it.
    """
    return preprocess(decode_image(encoded, record.height, record.width).image_HW3, profile)


def _normalised(image_HW3: npt.NDArray[np.uint8], profile: Profile) -> _ImageArray:
    if profile.on_bytes:
        return image_HW3
    # One pass where NumPy needs three. Exact, because every byte / 256 - 0.5 is a float32.
    depth = _CV_DEPTHS[profile.arithmetic]
    scale, offset = 1 / BYTE_RANGE, -MEAN_BYTE / BYTE_RANGE
    normalised = cv2.addWeighted(image_HW3, scale, image_HW3, 0, offset, dtype=depth)
    return np.asarray(normalised, profile.arithmetic)


def _write_input(image_HW3: _ImageArray, profile: Profile, out_3HW: InputArray) -> Geometry:
    geometry = profile.geometry(*image_HW3.shape[:2])
    resized = _resize(image_HW3, profile)
    height, width = resized.shape[:2]
    top, left = geometry.pad_top, geometry.pad_left
    rows_3hW = out_3HW[:, top : top + height]
    # Values that were computed in double are rounded here.
    rows_3hW[:, :, left : left + width] = resized.transpose(2, 0, 1)
    for border in (
        out_3HW[:, :top],
        out_3HW[:, top + height :],
        rows_3hW[:, :, :left],
        rows_3hW[:, :, left + width :],
    ):
        border.fill(profile.padding)
    return geometry


def _resize(image_HW3: _ImageArray, profile: Profile) -> _ImageArray:
    height, width = image_HW3.shape[:2]
    scale, interpolation = profile.scale(height, width), profile.interpolation
    # All channels in one call: OpenCV's kernels for one channel round differently in the last bit.
    if min(height, width) * scale > 0.5:
        # By factors and not by size, because OpenCV samples at the inverse of its argument.
        resized = cv2.resize(image_HW3, None, fx=scale, fy=scale, interpolation=interpolation)
    else:
        new_height, new_width = profile.resized(height, width)
        resized = cv2.resize(image_HW3, (new_width, new_height), interpolation=interpolation)
    return np.asarray(resized, profile.arithmetic)
