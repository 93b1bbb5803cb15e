"""Small image files of every kind, composed by hand where OpenCV cannot write them."""

import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

# Small, but large enough for the decoder to find a person.
HEIGHT, WIDTH = 32, 48

# Bytes that look like the start of a scan, as in videos that phones append to a picture.
TRAILER = b"a film \xff\xda and more"


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Returns noise without equal pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encode(suffix: str, image: np.ndarray | None = None, *options: int) -> bytes:
    image = picture() if image is None else image
    return bytes(cv2.imencode(suffix, image, options)[1])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, colour_type: int, extra: bytes = b"") -> bytes:
    """Returns a PNG of 8 bits per sample, with `extra` before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    first, *rest = (png_chunk(*chunk) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + first + extra + b"".join(rest)


def palette_png() -> bytes:
    colours = png_chunk(b"PLTE", picture(1, 256).tobytes())
    indices = picture()[..., 0]
    return png(WIDTH, HEIGHT, b"".join(b"\0" + row.tobytes() for row in indices), 3, colours)


def _exif(orientation: int) -> bytes:
    """Returns a big-endian TIFF header with one entry, the orientation as a short."""
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def turned_jpeg(orientation: int) -> bytes:
    jpeg = encode(".jpg")
    return jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0" + _exif(orientation)) + jpeg[2:]


def turned_png(orientation: int) -> bytes:
    plain = encode(".png")
    return plain[:33] + png_chunk(b"eXIf", _exif(orientation)) + plain[33:]


def jpeg_with_thumbnail() -> bytes:
    """Returns a JPEG with a complete JPEG of another size in its header."""
    jpeg = encode(".jpg")
    thumbnail = encode(".jpg", picture(20, 30))
    return jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0" + thumbnail) + jpeg[2:]


def padded_jpeg() -> bytes:
    """Returns a JPEG with bytes between its segments, which libjpeg skips."""
    jpeg = encode(".jpg")
    return jpeg[:2] + b"\xff\xff\xff" + jpeg[2:20] + b"junk\xff\0" + jpeg[20:]


def cmyk_jpeg() -> bytes:
    """Returns a baseline JPEG of four components, as Adobe's programs write it.

    Each block has one colour, so that only the means are encoded.
    Source: ITU-T T.81, B.2 and F.1.2.1.
    """
    ones = jpeg_segment(0xDB, b"\0" + b"\x01" * 64)
    components = b"".join(bytes([number, 0x11, 0]) for number in range(1, 5))
    frame = jpeg_segment(0xC0, struct.pack(">BHHB", 8, HEIGHT, WIDTH, 4) + components)
    # The twelve categories of means have codes of 4 bits, and the end of a block a code of 1 bit.
    means = jpeg_segment(0xC4, b"\0" + bytes([0, 0, 0, 12, *[0] * 12]) + bytes(range(12)))
    ends = jpeg_segment(0xC4, b"\x10" + bytes([1, *[0] * 15]) + b"\0")
    selectors = b"".join(bytes([number, 0]) for number in range(1, 5))
    scan = jpeg_segment(0xDA, b"\x04" + selectors + b"\0\x3f\0")
    adobe = jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")
    start, end = b"\xff\xd8", b"\xff\xd9"
    body = _mean_blocks([[255, 40, 128, 250], [10, 200, 60, 255]] * (HEIGHT * WIDTH // 128))
    return start + adobe + ones + frame + means + ends + scan + body + end


def _mean_blocks(colours: Sequence[Sequence[int]]) -> bytes:
    """Returns the entropy-coded blocks of the colours."""
    bits, before = "", [0] * len(colours[0])
    for colour in colours:
        for component, value in enumerate(colour):
            mean = (value - 128) * 8
            difference, before[component] = mean - before[component], mean
            category = abs(difference).bit_length()
            coded = difference if difference >= 0 else difference + 2**category - 1
            bits += f"{category:04b}" + (f"{coded:0{category}b}" if category else "") + "0"
    bits += "1" * (-len(bits) % 8)
    body = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))
    return body.replace(b"\xff", b"\xff\0")


def bmp(*, old: bool = False, downwards: bool = False) -> bytes:
    """Returns a BMP of 24 bits per pixel, with a header of 12 or 40 bytes."""
    height = -HEIGHT if downwards else HEIGHT
    rows = picture() if downwards else picture()[::-1]
    header = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    if not old:
        header = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, 24, *[0] * 6)
    start = 14 + len(header)
    file_header = struct.pack("<2sIHHI", b"BM", start + rows.size, 0, 0, start)
    return file_header + header + rows.tobytes()


def tiff(order: str) -> bytes:
    """Returns an uncompressed TIFF of one strip after the directory; byte order `<` or `>`."""
    short, long = 3, 4
    start = 10 + 9 * 12 + 4
    pixels = picture()[..., ::-1].tobytes()
    entries = [
        *((256, short, 1, WIDTH), (257, long, 1, HEIGHT), (258, short, 3, start)),
        *((259, short, 1, 1), (262, short, 1, 2), (273, long, 1, start + 6)),
        *((277, short, 1, 3), (278, short, 1, HEIGHT), (279, long, 1, len(pixels))),
    ]
    directory = b""
    for tag, kind, count, value in entries:
        fits = kind == short and count == 1
        directory += struct.pack(f"{order}HHI", tag, kind, count)
        directory += (
            struct.pack(f"{order}HH", value, 0) if fits else struct.pack(f"{order}I", value)
        )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + directory + bytes(4) + struct.pack(f"{order}3H", 8, 8, 8) + pixels


def good_files() -> dict[str, bytes]:
    """Returns valid files by kind, in the formats that this OpenCV supports."""
    colours = picture()
    grey, alpha = colours[..., 0], np.dstack([colours, colours[..., 0]])
    deep = colours.astype(np.uint16) * 257
    files = {
        "jpeg": encode(".jpg"),
        "grey jpeg": encode(".jpg", grey),
        "progressive jpeg": encode(".jpg", colours, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "jpeg with restarts": encode(".jpg", colours, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        "cmyk jpeg": cmyk_jpeg(),
        "padded jpeg": padded_jpeg(),
        "jpeg with a thumbnail": jpeg_with_thumbnail(),
        **{f"jpeg turned as {n}": turned_jpeg(n) for n in range(1, 9)},
        "png": encode(".png"),
        "grey png": encode(".png", grey),
        "deep png": encode(".png", deep),
        "deep grey png": encode(".png", deep[..., 0]),
        "transparent png": encode(".png", alpha),
        "palette png": palette_png(),
        "png turned as 6": turned_png(6),
        "bmp": encode(".bmp"),
        "grey bmp": encode(".bmp", grey),
        "transparent bmp": encode(".bmp", alpha),
        "old bmp": bmp(old=True),
        "downward bmp": bmp(downwards=True),
        "webp": encode(".webp", colours, cv2.IMWRITE_WEBP_QUALITY, 80),
        "lossless webp": encode(".webp", colours, cv2.IMWRITE_WEBP_QUALITY, 101),
        "transparent webp": encode(".webp", alpha),
        "tiff": encode(".tiff"),
        "little-endian tiff": tiff("<"),
        "big-endian tiff": tiff(">"),
        "ppm": encode(".ppm"),
        "pgm": encode(".pgm", grey),
        "pbm with a comment": b"P1 #a\n%d %d\n" % (WIDTH, HEIGHT) + b"10" * (WIDTH * HEIGHT // 2),
    }
    return files | ({"gif": encode(".gif")} if cv2.haveImageWriter("x.gif") else {})


def claiming(kind: str, size: int) -> bytes:
    """Returns a small file whose header claims the given height and width in pixels."""
    return _CLAIMS[kind](size)


def _patched(content: bytes, at: int, layout: str, *values: int) -> bytes:
    patch = struct.pack(layout, *values)
    return content[:at] + patch + content[at + len(patch) :]


def _claiming_webp(size: int) -> bytes:
    lossy = encode(".webp", picture(), cv2.IMWRITE_WEBP_QUALITY, 80)
    extension = b"VP8X" + struct.pack("<IBxxx", 10, 0) + 2 * (size - 1).to_bytes(3, "little")
    return lossy[:12] + extension + lossy[12:]


def _claiming_jpeg(size: int) -> bytes:
    jpeg = encode(".jpg")
    return _patched(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", size, size)


def _claiming_lossless_webp(size: int) -> bytes:
    webp = encode(".webp", picture(), cv2.IMWRITE_WEBP_QUALITY, 101)
    return _patched(webp, 21, "<I", (size - 1) | (size - 1) << 14)


_CLAIMS = {
    "jpeg": _claiming_jpeg,
    "png": lambda size: png(size, size, b"\0" * 99, 2),
    "gif": lambda size: b"GIF89a" + struct.pack("<HH", size, size) + bytes(30),
    "bmp": lambda size: _patched(bmp(), 18, "<ii", size, -size),
    "old bmp": lambda size: _patched(bmp(old=True), 18, "<HH", size, size),
    "webp": lambda size: _patched(
        encode(".webp", picture(), cv2.IMWRITE_WEBP_QUALITY, 80), 26, "<HH", size, size
    ),
    "lossless webp": _claiming_lossless_webp,
    "extended webp": _claiming_webp,
    "little-endian tiff": lambda size: _patched(
        _patched(tiff("<"), 18, "<H", size), 30, "<I", size
    ),
    "big-endian tiff": lambda size: _patched(_patched(tiff(">"), 18, ">H", size), 30, ">I", size),
}
CLAIMING = tuple(_CLAIMS)
