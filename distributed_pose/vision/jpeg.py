"""Decodes JPEGs with libjpeg-turbo directly, because OpenCV hides its warnings about damaged data.

The pixels equal OpenCV's to the bit, because both use the same library with the same settings: the
accurate integer transform and smooth upsampling. `tests/unit/vision/test_jpeg.py` compares them.
"""

import re

import numpy as np
import numpy.typing as npt
import simplejpeg

# The beginnings of libjpeg's warnings about data, after which libjpeg and OpenCV continue.
# Source: jerror.h of libjpeg-turbo 3.1, the messages JWRN_*.
_RECOVERED = (
    "Corrupt JPEG data",
    "Inconsistent progression sequence",
    "Invalid SOS parameters for sequential JPEG",
)

# The beginning of TurboJPEG's own messages; it supports fewer kinds of JPEGs than libjpeg.
_UNSUPPORTED = re.compile(r"tj\w+\(\): ")


def decode_upright(jpeg: bytes) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Returns the image, uint8 [H, W, 3] BGR, and libjpeg's warning about its data or "".

    The image is None where only OpenCV can decide whether the file can be decoded.

    Args:
        jpeg: a grey or colour JPEG without EXIF orientation, which is not read.
    """
    try:
        return simplejpeg.decode_jpeg(jpeg, "BGR"), ""
    except ValueError as error:
        message = str(error)
    # An error after the warning would have replaced its message, so the image is complete.
    if message.startswith(_RECOVERED):
        try:
            return simplejpeg.decode_jpeg(jpeg, "BGR", strict=False), message
        # The warning is about bytes before the image data, and nothing was decoded.
        except ValueError:
            pass
    return None, _damage(message)


def find_damage(jpeg: bytes) -> str:
    """Returns libjpeg's warning about the data of a JPEG, or "" if there is none.

    The check takes two thirds of the time of decoding.
    """
    try:
        # One pixel per block of 64: the entropy-coded data is read, and little else is computed.
        simplejpeg.decode_jpeg(jpeg, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return _damage(str(error))
    return ""


def _damage(message: str) -> str:
    return "" if _UNSUPPORTED.match(message) else message
