"""JPEGs by libjpeg-turbo itself, which says when their data is damaged; OpenCV does not pass it on.

The pixels are OpenCV's to the bit, since both leave the same choices to the same library: the
accurate integer transform and smooth upsampling. `tests/unit/vision/test_jpeg.py` compares them.
"""

import re

import numpy as np
import numpy.typing as npt
import simplejpeg

# What libjpeg's warnings about the data begin with. After them it goes on, and so does OpenCV.
# Source: jerror.h of libjpeg-turbo 3.1, the messages JWRN_*.
_RECOVERED = (
    "Corrupt JPEG data",
    "Inconsistent progression sequence",
    "Invalid SOS parameters for sequential JPEG",
)

# How the messages of TurboJPEG begin, which knows fewer kinds of JPEGs than libjpeg.
_UNSUPPORTED = re.compile(r"tj\w+\(\): ")


def decode_upright(jpeg: bytes) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Returns the image [H, W, 3], BGR, and what libjpeg says of its data; empty if nothing.

    The image is None where only OpenCV can tell whether it decodes to something.

    Args:
        jpeg: grey or in colour, and not turned by EXIF, which is not read.
    """
    try:
        return simplejpeg.decode_jpeg(jpeg, "BGR"), ""
    except ValueError as error:
        message = str(error)
    # The message is that of an error if one came after the warning, so the image is complete.
    if message.startswith(_RECOVERED):
        try:
            return simplejpeg.decode_jpeg(jpeg, "BGR", strict=False), message
        # The warning is about what comes before the data, and nothing was decoded.
        except ValueError:
            pass
    return None, _damage(message)


def find_damage(jpeg: bytes) -> str:
    """Returns what libjpeg says of a JPEG's data; empty if nothing.

    It takes two thirds of the time of decoding.
    """
    try:
        # A pixel for each block of 64: the entropy-coded data is read, and little else is done.
        simplejpeg.decode_jpeg(jpeg, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return _damage(str(error))
    return ""


def _damage(message: str) -> str:
    return "" if _UNSUPPORTED.match(message) else message
