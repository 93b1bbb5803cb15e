"""Hostile images: damaged files of all formats, and small ones that claim or hold a lot."""

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random

import cv2
import numpy as np

from tests.hostile.cases import HOSTILE_NAMES, SIZE, Case, damaged, write_dataset
from tests.image_files import (
    CLAIMING,
    claiming,
    encode,
    good_files,
    jpeg_segment,
    picture,
    png_chunk,
)

# These are in addition to `good_files`, whose headers are read here.
_WRITTEN = (".pbm", ".pgm", ".pnm", ".pam", ".pfm", ".hdr", ".jp2", ".avif", ".ras", ".sr", ".gif")


@cache
def _valid() -> dict[str, bytes]:
    files = dict(good_files())
    for suffix in _WRITTEN:
        if cv2.haveImageWriter(f"x{suffix}"):
            image = picture(*SIZE)
            if suffix in {".pfm", ".hdr"}:
                image = image.astype(np.float32)
            elif suffix in {".pbm", ".pgm"}:
                image = image[..., 0]
            try:
                files[suffix[1:]] = encode(suffix, image)
            except cv2.error:
                continue
    return files


def _deflated_png(size: int, depth: int = 1, colour_type: int = 0) -> bytes:
    """Returns a complete PNG of one colour, with thousands of pixels per byte."""
    samples = {0: 1, 2: 3, 6: 4}[colour_type]
    row = bytes(1 + (size * depth * samples + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(size)) + packer.flush()
    header = struct.pack(">IIBBBBB", size, size, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def _png_with_text() -> bytes:
    """Returns a PNG with a comment that unpacks to a gigabyte."""
    plain = encode(".png", picture(*SIZE))
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(2**24)) for _ in range(64)) + packer.flush()
    return plain[:33] + png_chunk(b"zTXt", b"Comment\0\0" + text) + plain[33:]


def _jpeg_of_scans() -> bytes:
    """Returns a progressive JPEG that repeats its scans thousands of times."""
    jpeg = encode(".jpg", picture(*SIZE), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * (2**22 // (len(jpeg) - start)) + b"\xff\xd9"


def _large_jpeg_of_scans(size: int) -> bytes:
    jpeg = encode(".jpg", np.zeros((size, size, 3), np.uint8), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * 200 + b"\xff\xd9"


def _jpeg_of_segments() -> bytes:
    jpeg = encode(".jpg", picture(*SIZE))
    return jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0" + bytes(60000)) * 200 + jpeg[2:]


def _bigtiff(size: int) -> bytes:
    """Returns a BigTIFF of one deflated strip."""
    pixels = zlib.compress(bytes(1000))
    entries = [
        *((256, 4, 1, size), (257, 4, 1, size), (258, 3, 1, 8), (259, 3, 1, 8)),
        *((262, 3, 1, 1), (273, 16, 1, 16 + 8 + 9 * 20 + 8), (277, 3, 1, 1)),
        *((278, 4, 1, size), (279, 16, 1, len(pixels))),
    ]
    directory = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 9) + directory + bytes(8) + pixels


def _looping_tiff() -> bytes:
    """Returns a TIFF whose directory refers to itself as the next one."""
    content = bytearray(good_files()["little-endian tiff"])
    content[10 + 9 * 12 : 14 + 9 * 12] = struct.pack("<I", 8)
    return bytes(content)


def _claimed(kind: str, size: int) -> bytes:
    files = {
        "pbm": f"P4\n{size} {size}\n".encode() + bytes(99),
        "plain pbm": f"P1\n{size} {size}\n".encode() + b"0 " * 99,
        "pgm": f"P5\n{size} {size}\n255\n".encode() + bytes(99),
        "ppm": f"P6\n{size} {size}\n65535\n".encode() + bytes(99),
        "plain ppm": f"P3\n{size} {size}\n255\n".encode() + b"1 " * 99,
        "pam": f"P7\nWIDTH {size}\nHEIGHT {size}\nDEPTH 4\nMAXVAL 255\nENDHDR\n".encode()
        + bytes(9),
        "pfm": f"PF\n{size} {size}\n-1.0\n".encode() + bytes(99),
        "hdr": f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {size} +X {size}\n".encode() + bytes(99),
        "ras": struct.pack(">8I", 0x59A66A95, size, size, 24, 0, 1, 0, 0) + bytes(99),
        "jp2": _patched_sizes("jp2", size),
        "avif": _patched_sizes("avif", size),
        "bigtiff": _bigtiff(size),
    }
    return files[kind]


_CLAIMED = (
    *("pbm", "plain pbm", "pgm", "ppm", "plain ppm", "pam", "pfm", "hdr", "ras", "jp2", "avif"),
    "bigtiff",
)


def _patched_sizes(kind: str, size: int) -> bytes:
    """Returns a file with all sizes in its boxes replaced."""
    old = struct.pack(">II", SIZE[1], SIZE[0])
    turned = struct.pack(">II", SIZE[0], SIZE[1])
    new = struct.pack(">II", size, size)
    return _valid().get(kind, b"").replace(old, new).replace(turned, new)


def _run_on(content: Callable[[Random], bytes]) -> Callable[[Path, Random], Sequence[str]]:
    return lambda folder, random: write_dataset(folder, {"a.png": content(random)})


def _named(folder: Path, random: Random) -> Sequence[str]:
    good = encode(".png", picture(*SIZE))
    content = random.choice((good, good[:100], b"", b"text"))
    return write_dataset(folder, {random.choice(HOSTILE_NAMES): content})


def _large(folder: Path, _random: Random) -> Sequence[str]:
    """Lists an image with a size over the limit."""
    return write_dataset(folder, {"a.png": _deflated_png(20000)}, (20000, 20000))


def _ignoring(content: Callable[[], bytes], _random: Random) -> bytes:
    return content()


def image_cases(random: Random) -> list[Case]:
    """Returns one case of each constructed kind, and a damaged file of each format."""
    made: dict[str, Callable[[Path, Random], Sequence[str]]] = {
        "honest, over the limit": _large,
        "name": _named,
    }
    contents: dict[str, Callable[[Random], bytes]] = {
        "png of 400 million pixels": lambda _: _deflated_png(20000),
        "png of 16 bits": lambda _: _deflated_png(8000, 16, 6),
        "png with a gigabyte of text": lambda _: _png_with_text(),
        "jpeg of thousands of scans": lambda _: _jpeg_of_scans(),
        "large jpeg of many scans": lambda _: _large_jpeg_of_scans(4000),
        "jpeg of many segments": lambda _: _jpeg_of_segments(),
        "tiff whose directory loops": lambda _: _looping_tiff(),
        "other content": lambda r: r.choice((b"", b"<svg/>", b"%PDF-1.7", r.randbytes(500))),
    }
    size = random.choice((5000, 16000, 30000, 65000, 2**30))
    for kind in CLAIMING:
        small = min(size, 16000 if "webp" in kind else 65000)
        contents[f"{kind} that claims {small}"] = partial(_ignoring, partial(claiming, kind, small))
    for kind in _CLAIMED:
        contents[f"{kind} that claims {size}"] = partial(_ignoring, partial(_claimed, kind, size))
    for kind, valid in _valid().items():
        contents[f"damaged {kind}"] = partial(damaged, valid)
    made |= {name: _run_on(content) for name, content in contents.items()}
    return [Case("image", name, write) for name, write in made.items()]
