"""What libtiff says against a TIFF, which OpenCV decodes in spite of it and does not pass on."""

import io

from PIL import Image

# Of Pillow, where libtiff has refused a part of the data.
_REFUSED = "decoder error"


def find_damage(tiff: bytes) -> str:
    """Returns that the data of a TIFF is damaged, empty if libtiff accepts all of it.

    Only compressed data can be seen to be damaged. Pillow decodes it a second time.
    """
    try:
        with Image.open(io.BytesIO(tiff), formats=["TIFF"]) as image:
            image.load()
    # Pillow knows fewer kinds of TIFFs, and has as many exceptions for them.
    except Exception as error:  # noqa: BLE001
        return "libtiff cannot decode a part of the data" if _REFUSED in str(error) else ""
    return ""
