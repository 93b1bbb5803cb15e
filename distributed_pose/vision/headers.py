"""What an image file says of itself before it is decoded, which a file can do with a few bytes."""

import struct
from collections.abc import Callable
from typing import NamedTuple

_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
# The markers of frame headers; the three between them are tables.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that no segment follows: stuffing, restarts, start and end.
_JPEG_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
# Length, name and checksum of a chunk.
_PNG_FRAME_BYTES = 12

_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_SHORT = 3


class Header(NamedTuple):
    """A file's header.

    Attributes:
        height: in pixels, before the image is turned as EXIF says.
        width: likewise.
        is_cut_off: whether the file ends before its image does; known of JPEG and PNG.
    """

    height: int
    width: int
    is_cut_off: bool = False


def read_header(encoded: bytes) -> Header | None:
    """Returns the header of a JPEG, PNG, GIF, BMP, WebP or TIFF; None if there is none to read.

    Source: ITU-T T.81 B.1.1, W3C PNG 5.2 and 5.3, GIF89a 18, RFC 9649 2.5 to 2.7 (WebP), TIFF 6.0
    section 2.
    """
    for start, read in _READERS.items():
        if encoded.startswith(start):
            try:
                return read(encoded)
            except (struct.error, IndexError):
                return None
    return None


def _jpeg(jpeg: bytes) -> Header:
    """Walks the segments as libjpeg does, which skips what is no marker where one is due."""
    height = width = 0
    position = 2
    while (position := jpeg.find(0xFF, position)) >= 0:
        while jpeg[position : position + 1] == b"\xff":
            position += 1
        marker = jpeg[position] if position < len(jpeg) else 0
        position += 1
        if marker in _JPEG_BARE:
            continue
        if marker == _JPEG_SCAN:
            # In a scan a marker byte is always escaped, so that an end marker is its end. It is
            # looked for from behind, where it is in a file that is whole.
            return Header(height, width, is_cut_off=jpeg.rfind(_JPEG_END, position) < 0)
        if marker in _JPEG_FRAMES and position + 7 <= len(jpeg):
            height, width = struct.unpack_from(">HH", jpeg, position + 3)
        position += int.from_bytes(jpeg[position : position + 2])
    return Header(height, width, is_cut_off=True)


def _png(png: bytes) -> Header:
    width, height = struct.unpack_from(">II", png, 16)
    position, name = len(_PNG_START), b""
    while name != _PNG_END and position + _PNG_FRAME_BYTES <= len(png):
        name = png[position + 4 : position + 8]
        # Whatever length a chunk claims, OpenCV makes room for it.
        position += int.from_bytes(png[position : position + 4]) + _PNG_FRAME_BYTES
    return Header(height, width, is_cut_off=name != _PNG_END or position > len(png))


def _gif(gif: bytes) -> Header:
    width, height = struct.unpack_from("<HH", gif, 6)
    return Header(height, width)


def _bmp(bmp: bytes) -> Header:
    (header_size,) = struct.unpack_from("<I", bmp, 14)
    # The oldest header is of 12 bytes; a negative height means that the rows go down.
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", bmp, 18)
    return Header(abs(height), abs(width))


def _webp(webp: bytes) -> Header | None:
    kind = webp[8:16]
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", webp, 26)
        return Header(height & 0x3FFF, width & 0x3FFF)
    if kind == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", webp, 21)
        return Header((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if kind == b"WEBPVP8X":
        width, height = (int.from_bytes(webp[at : at + 3], "little") + 1 for at in (24, 27))
        return Header(height, width)
    return None


def _tiff(tiff: bytes) -> Header | None:
    order = "<" if tiff.startswith(b"I") else ">"
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    sizes = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
        value = "H" if kind == _TIFF_SHORT else "I"
        sizes[tag] = struct.unpack_from(order + value, tiff, entry + 8)[0]
    if not {_TIFF_WIDTH, _TIFF_HEIGHT} <= sizes.keys():
        return None
    return Header(sizes[_TIFF_HEIGHT], sizes[_TIFF_WIDTH])


_READERS: dict[bytes, Callable[[bytes], Header | None]] = {
    b"\xff\xd8": _jpeg,
    _PNG_START: _png,
    b"RIFF": _webp,
    b"BM": _bmp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"GIF8": _gif,
}
