"""Reads the headers of image files, so that a file's claims are checked before it is decoded.

Only files whose header is read here are decoded, so that no file can claim more memory than its
image needs.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

JPEG_START = b"\xff\xd8"
TIFF_STARTS = (b"II*\0", b"MM\0*")
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_JPEG_SCAN_START = b"\xff\xda"
# The markers of frame headers; the three excluded ones are tables.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Markers without a segment: stuffing, restarts, start and end.
_JPEG_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})

# A progressive JPEG has about ten scans, each of which costs a pass over the whole image.
_MAX_JPEG_SCANS = 500

_APP1 = 0xE1
# An EXIF entry, tag 0x0112, whose value is an orientation other than 1, in both byte orders.
_TURNS = (
    re.compile(rb"\x01\x12.{6}\0[\x02-\x08]", re.DOTALL),
    re.compile(rb"\x12\x01.{6}[\x02-\x08]\0", re.DOTALL),
)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_PNG_PIXELS = b"IDAT"
# Length, name and checksum of a chunk.
_PNG_FRAME_BYTES = 12

# Compressed texts and profiles of a PNG; libpng unpacks each of them to up to 8 MB.
_PNG_PACKED = frozenset({b"zTXt", b"iTXt", b"iCCP"})
_MAX_PNG_PACKED = 16
# Four samples of two bytes each.
_MAX_PNG_PIXEL_BYTES = 8
_PNG_SLACK_BYTES = 2**16

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 256, 257, 322, 323
_TIFF_SIZES = frozenset({_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT})
_TIFF_TYPES = {3: "H", 4: "I"}
# A tile may be larger than a small image; OpenCV allocates memory for the whole tile.
_MAX_SPARE_TILE_PIXELS = 2**20

# Stricter than OpenCV's reader, which accepts a comment mark right after a number as whitespace.
_PNM_GAP = rb"\s(?:\s|#[^\r\n]*[\r\n])*"
_PNM = re.compile(rb"P[1-6]" + _PNM_GAP + rb"(\d{1,9})" + _PNM_GAP + rb"(\d{1,9})\s")

_READ_FORMATS = "JPEG, PNG, WebP, BMP, GIF, TIFF, PBM, PGM or PPM"
# Formats that some versions of OpenCV read, and whose headers are not read here.
_REFUSED_FORMATS = {
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"#?": "Radiance HDR",
    b"v/1\x01": "OpenEXR",
    b"PF": "PFM",
    b"Pf": "PFM",
    b"P7": "PAM",
    b"\x59\xa6\x6a\x95": "Sun raster",
}


class UndecodableImageError(ValueError):
    """The bytes are not a complete image; the message says why."""


class Header(NamedTuple):
    """The header of an image file.

    Attributes:
        height: height in pixels, before EXIF orientation is applied.
        width: width in pixels, before EXIF orientation is applied.
        is_cut_off: whether the file ends before its image does; only JPEG and PNG can be checked.
        may_turn: whether EXIF may ask to rotate or mirror the image; only read from JPEG.
        num_components: number of components of a JPEG: 1 for grey, 3 for colour, 4 for CMYK.
    """

    height: int
    width: int
    is_cut_off: bool = False
    may_turn: bool = False
    num_components: int = 3


def read_header(encoded: bytes) -> Header:
    """Returns the header of a JPEG, PNG, GIF, BMP, WebP, TIFF, PBM, PGM or PPM.

    Raises:
        UndecodableImageError: if there is no such header, or it announces more data than its image
            needs.

    Source: ITU-T T.81 B.1.1, W3C PNG 5.2 and 5.3, GIF89a 18, RFC 9649 2.5 to 2.7 (WebP), TIFF 6.0
    section 2, Netpbm's ppm(5).
    """
    header = None
    for start, read in _READERS.items():
        if encoded.startswith(start):
            try:
                header = read(encoded)
            except (struct.error, IndexError):
                break
    if header is None:
        raise UndecodableImageError(_refusal(encoded))
    return header


def _refusal(encoded: bytes) -> str:
    name = "AVIF or HEIF" if encoded[4:8] == b"ftyp" else ""
    for start, refused in _REFUSED_FORMATS.items():
        if encoded.startswith(start):
            name = refused
    if name:
        return f"{name} is not supported; convert it to JPEG or PNG"
    return f"not an image that can be decoded: it has no header of a {_READ_FORMATS}"


def _jpeg(jpeg: bytes) -> Header:
    """Walks the segments as libjpeg does, which skips bytes where a marker is expected."""
    header = Header(0, 0, is_cut_off=True)
    is_progressive = False
    position = 2
    while (position := jpeg.find(0xFF, position)) >= 0:
        while jpeg[position : position + 1] == b"\xff":
            position += 1
        marker = jpeg[position] if position < len(jpeg) else 0
        position += 1
        if marker in _JPEG_BARE:
            continue
        if marker == _JPEG_SCAN:
            return _at_first_scan(jpeg, position, header, is_progressive=is_progressive)
        length = int.from_bytes(jpeg[position : position + 2])
        if marker in _JPEG_FRAMES and position + 8 <= len(jpeg):
            is_progressive = marker in _JPEG_PROGRESSIVE
            height, width, number = struct.unpack_from(">HHB", jpeg, position + 3)
            header = header._replace(height=height, width=width, num_components=number)
        elif marker == _APP1 and not header.may_turn:
            segment = jpeg[position : position + length]
            header = header._replace(may_turn=any(turn.search(segment) for turn in _TURNS))
        position += length
    return header


def _at_first_scan(jpeg: bytes, position: int, header: Header, *, is_progressive: bool) -> Header:
    """Returns the header, completed by what is known at the start of the first scan."""
    has_more_scans = is_progressive or jpeg[position + 2 : position + 3] < bytes(
        [header.num_components]
    )
    # In a scan a marker byte is always escaped, so bytes that look like a marker are one.
    if has_more_scans and jpeg.count(_JPEG_SCAN_START, position) > _MAX_JPEG_SCANS:
        raise UndecodableImageError(f"the JPEG has over {_MAX_JPEG_SCANS} scans")
    # The search runs backwards, because a complete file has the marker at its end.
    return header._replace(is_cut_off=jpeg.rfind(_JPEG_END, position) < 0)


def _png(png: bytes) -> Header:
    width, height = struct.unpack_from(">II", png, 16)
    position, name = len(_PNG_START), b""
    num_packed = pixel_bytes = 0
    while name != _PNG_END and position + _PNG_FRAME_BYTES <= len(png):
        length = int.from_bytes(png[position : position + 4])
        name = png[position + 4 : position + 8]
        num_packed += name in _PNG_PACKED
        pixel_bytes += length if name == _PNG_PIXELS else 0
        # OpenCV allocates memory for any length that a chunk claims.
        position += length + _PNG_FRAME_BYTES
    is_cut_off = name != _PNG_END or position > len(png)
    most_bytes = 2 * _MAX_PNG_PIXEL_BYTES * height * width + _PNG_SLACK_BYTES
    if num_packed > _MAX_PNG_PACKED:
        raise UndecodableImageError(f"the PNG has over {_MAX_PNG_PACKED} compressed texts")
    if pixel_bytes > most_bytes and not is_cut_off:
        raise UndecodableImageError(f"the PNG has {pixel_bytes} bytes for {width}x{height} pixels")
    return Header(height, width, is_cut_off)


def _gif(gif: bytes) -> Header:
    width, height = struct.unpack_from("<HH", gif, 6)
    return Header(height, width)


def _bmp(bmp: bytes) -> Header:
    (header_size,) = struct.unpack_from("<I", bmp, 14)
    # The oldest header has 12 bytes; a negative height means that rows are stored top down.
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
    sizes: dict[int, int] = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, num_values = struct.unpack_from(f"{order}HHI", tiff, entry)
        if tag in _TIFF_SIZES:
            # An ambiguous entry is refused.
            if kind not in _TIFF_TYPES or num_values != 1 or tag in sizes:
                return None
            sizes[tag] = struct.unpack_from(order + _TIFF_TYPES[kind], tiff, entry + 8)[0]
    if not {_TIFF_WIDTH, _TIFF_HEIGHT} <= sizes.keys():
        return None
    header = Header(sizes[_TIFF_HEIGHT], sizes[_TIFF_WIDTH])
    tile_width, tile_height = sizes.get(_TIFF_TILE_WIDTH, 1), sizes.get(_TIFF_TILE_HEIGHT, 1)
    if tile_width * tile_height > max(header.height * header.width, _MAX_SPARE_TILE_PIXELS):
        raise UndecodableImageError(f"the TIFF has tiles of {tile_width}x{tile_height} pixels")
    return header


def _pnm(pnm: bytes) -> Header | None:
    match = _PNM.match(pnm)
    return Header(int(match[2]), int(match[1])) if match else None


_READERS: dict[bytes, Callable[[bytes], Header | None]] = {
    JPEG_START: _jpeg,
    _PNG_START: _png,
    b"RIFF": _webp,
    b"BM": _bmp,
    **dict.fromkeys(TIFF_STARTS, _tiff),
    b"GIF8": _gif,
    **{f"P{number}".encode(): _pnm for number in range(1, 7)},
}
