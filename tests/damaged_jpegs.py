"""JPEGs of many kinds, and damage to their data."""

import re

import cv2
import numpy as np

from tests.image_files import jpeg_segment

_END = b"\xff\xd9"
_SAMPLINGS = {
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
_CODINGS = {
    "baseline": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "with restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "progressive with restarts": (
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        1,
        cv2.IMWRITE_JPEG_RST_INTERVAL,
        2,
    ),
    "optimised": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "of low quality": (cv2.IMWRITE_JPEG_QUALITY, 4),
    "of high quality": (cv2.IMWRITE_JPEG_QUALITY, 100),
}


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns smooth shapes with some noise, which compress as photographs do."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    noisy = smooth + random.integers(-9, 10, smooth.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def whole_jpegs() -> dict[str, bytes]:
    """Returns undamaged files of many kinds and odd sizes, by name."""
    files = {}
    for number, (sampling, factor) in enumerate(_SAMPLINGS.items()):
        image = scene(131 + 7 * number, 187 - 9 * number, number)
        for coding, options in _CODINGS.items():
            files[f"{sampling} {coding}"] = _jpeg(
                image, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, *options
            )
    for coding, options in _CODINGS.items():
        files[f"grey {coding}"] = _jpeg(scene(90, 121)[..., 0], *options)
    full = files["4:4:4 baseline"]
    # The marker states that the components are red, green and blue.
    files["red, green, blue"] = full[:2] + jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") + full[2:]
    files["with bytes after its end"] = full + b"a film \xff\xda and more"
    files["with a comment"] = full[:2] + jpeg_segment(0xFE, b"a comment") + full[2:]
    return files


def _jpeg(image: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(".jpg", image, options)[1])


def damage(jpeg: bytes, random: np.random.Generator) -> bytes:
    """Returns a file with the end marker of a JPEG and data that is damaged in one of five ways."""
    start, end = jpeg.index(b"\xff\xda") + 14, jpeg.rindex(_END)
    damaged = bytearray(jpeg)
    place = int(random.integers(start, end))
    match int(random.integers(5)):
        case 0:
            damaged[place] ^= 1 << int(random.integers(8))
        case 1:
            for flipped in random.integers(start, end, int(random.integers(2, 20))):
                damaged[flipped] ^= 1 << int(random.integers(8))
        case 2:
            damaged[place:] = _END
        case 3:
            del damaged[place : min(place + int(random.integers(1, 200)), end)]
        case _:
            restarts = [
                found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", jpeg[start:end])
            ]
            first = start + restarts[0] if restarts else place
            del damaged[first : first + 2]
    return bytes(damaged)
