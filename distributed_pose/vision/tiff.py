"""Detects damaged data in TIFFs by libtiff's errors, which OpenCV ignores and does not report."""

import io

from PIL import Image

# Part of Pillow's message where libtiff refused a part of the data.
_REFUSED = "decoder error"


def find_damage(tiff: bytes) -> str:
    """Returns a message about damaged data of a TIFF, or "" if libtiff accepts all of it.

    Damage can be detected in compressed data only. Pillow decodes the image a second time.
    """
    try:
        with Image.open(io.BytesIO(tiff), formats=["TIFF"]) as image:
            image.load()
    # Pillow reads fewer kinds of TIFFs than OpenCV and raises many exceptions for the others.
    except Exception as error:  # noqa: BLE001
        return "libtiff cannot decode a part of the data" if _REFUSED in str(error) else ""
    return ""
