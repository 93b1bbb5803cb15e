"""Image files of all kinds: good ones get OpenCV's pixels, all others are refused with a reason."""

from time import process_time

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distributed_pose.vision.decode import MAX_IMAGE_PIXELS, decode_image
from distributed_pose.vision.headers import UndecodableImageError, read_header
from tests.image_files import (
    CLAIMING,
    HEIGHT,
    TRAILER,
    WIDTH,
    claiming,
    cmyk_jpeg,
    encode,
    good_files,
    jpeg_with_thumbnail,
    picture,
    turned_jpeg,
)

GOOD = good_files()
LOSSLESS = [
    *("png", "bmp", "old bmp", "downward bmp", "lossless webp", "ppm", "deep png"),
    *("tiff", "little-endian tiff", "big-endian tiff", "transparent png"),
]


def read_by_opencv(encoded: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def size_of(kind: str) -> tuple[int, int]:
    return read_by_opencv(GOOD[kind]).shape[:2]


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_file_is_decoded_to_opencvs_pixels(kind: str) -> None:
    expected = read_by_opencv(GOOD[kind])
    decoded, _ = decode_image(GOOD[kind], *expected.shape[:2])
    assert decoded.dtype == np.uint8
    assert decoded.shape == expected.shape
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_lossless_file_is_decoded_to_the_pixels_that_were_written(kind: str) -> None:
    decoded, _ = decode_image(GOOD[kind], HEIGHT, WIDTH)
    np.testing.assert_array_equal(decoded, picture())


def test_cmyk_is_converted_to_bgr() -> None:
    # Cyan, magenta and yellow times black, all of which Adobe stores inverted.
    decoded = decode_image(cmyk_jpeg(), HEIGHT, WIDTH).image_HW3.astype(int)
    assert abs(decoded[0, 0] - [128 * 250 / 255, 40 * 250 / 255, 250]).max() <= 3
    assert abs(decoded[0, 8] - [60, 200, 10]).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda image: image),
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (4, lambda image: image[::-1]),
        (5, lambda image: image.transpose(1, 0, 2)),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_every_exif_orientation_is_applied(orientation: int, turn: object) -> None:
    assert callable(turn)
    expected = turn(read_by_opencv(GOOD["jpeg"]))
    decoded, _ = decode_image(turned_jpeg(orientation), *expected.shape[:2])
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("kind", GOOD)
def test_a_file_truncated_at_any_byte_is_refused(kind: str) -> None:
    size = size_of(kind)
    for length in range(len(GOOD[kind])):
        with pytest.raises(UndecodableImageError):
            decode_image(GOOD[kind][:length], *size)


@pytest.mark.parametrize(
    "kind", ["jpeg", "progressive jpeg", "cmyk jpeg", "jpeg with restarts", "png", "palette png"]
)
def test_bytes_after_a_complete_file_are_ignored(kind: str) -> None:
    decoded, _ = decode_image(GOOD[kind] + TRAILER, HEIGHT, WIDTH)
    np.testing.assert_array_equal(decoded, read_by_opencv(GOOD[kind]))


def test_the_end_marker_of_a_thumbnail_does_not_end_its_jpeg() -> None:
    jpeg = jpeg_with_thumbnail()
    assert jpeg.count(b"\xff\xd9") == 2
    assert read_header(jpeg[:-2]).is_cut_off


@pytest.mark.parametrize("kind", GOOD)
def test_the_header_of_a_good_file_states_its_size(kind: str) -> None:
    header = read_header(GOOD[kind])
    assert not header.is_cut_off
    assert sorted(header[:2]) == sorted(size_of(kind))


@pytest.mark.parametrize("kind", CLAIMING)
def test_a_header_that_claims_too_much_is_refused_before_memory_is_allocated(kind: str) -> None:
    file = claiming(kind, 16000)
    assert read_header(file)[:2] == (16000, 16000)
    start = process_time()
    with pytest.raises(UndecodableImageError, match=r"image is 16000x16000, .* says 48x32"):
        decode_image(file, HEIGHT, WIDTH)
    # To allocate memory for so many pixels would take longer.
    assert process_time() - start < 0.05


def test_a_png_chunk_that_claims_too_much_is_refused_before_memory_is_allocated() -> None:
    content = GOOD["png"]
    length = content.index(b"IDAT") - 4
    start = process_time()
    with pytest.raises(UndecodableImageError, match="truncated"):
        decode_image(content[:length] + b"\x7f" + content[length + 1 :], HEIGHT, WIDTH)
    assert process_time() - start < 0.05


def test_a_size_that_opencv_rejects_is_refused_with_opencvs_reason() -> None:
    with pytest.raises(UndecodableImageError, match=r"OpenCV.*decode"):
        decode_image(b"P6 2000000 1 255\n" + bytes(99), 1, 2_000_000)


@pytest.mark.parametrize("size", [(1, MAX_IMAGE_PIXELS + 1), (2**31 - 1, 2**31 - 1)])
def test_an_annotation_that_claims_too_much_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UndecodableImageError, match=f"{size[1]}x{size[0]}, over the limit"):
        decode_image(GOOD["png"], *size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"not a picture", "not an image"),
        (bytes(1000), "not an image"),
        (b"PK\x03\x04" + bytes(range(256)), "not an image"),
        (b"<!DOCTYPE html><title>404</title>", "not an image"),
        (np.random.default_rng(1).bytes(5000), "not an image"),
        (b"\xff\xd8", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8" + b"\xff\x00" * 100, "truncated"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (GOOD["png"][:-12], "truncated"),
        (b"BM", "not an image"),
        (b"GIF89a", "not an image"),
        (b"RIFF\0\0\0\0WEBP", "not an image"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not an image"),
        # OpenCV reads the number in the comment as the height.
        (b"P6 48#3000\n32 255\n" + bytes(9999), "not an image"),
        (b"P6 48 #a\r3000 \n32 255\n" + bytes(9999), "image is 48x3000"),
        (b"II*\0\xff\xff\xff\xff", "not an image"),
        (b"MM\0*\0\0\0\x08\0\0", "not an image"),
        (encode(".png", picture(48, 48)), "image is 48x48, its annotation says 48x32"),
        (encode(".png", picture(4, 4)), "image is 4x4, its annotation says 48x32"),
        (encode(".png", picture(48, 32)), "image is 32x48, its annotation says 48x32"),
        (encode(".jpg", picture(48, 48)), "image is 48x48, its annotation says 48x32"),
    ],
)
def test_content_that_is_not_the_expected_image_is_refused_with_the_reason(
    content: bytes, message: str
) -> None:
    with pytest.raises(UndecodableImageError, match=message):
        decode_image(content, HEIGHT, WIDTH)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(GOOD)),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
@example(kind="tiff", damage=[(0.0, 0x49)])
def test_a_file_with_wrong_bytes_is_decoded_in_its_size_or_refused(
    kind: str, damage: list[tuple[float, int]]
) -> None:
    content = bytearray(GOOD[kind])
    for place, value in damage:
        content[int(place * len(content))] = value
    size = size_of(kind)
    try:
        decoded, _ = decode_image(bytes(content), *size)
    except UndecodableImageError:
        return
    assert (decoded.shape, decoded.dtype) == ((*size, 3), np.uint8)


@pytest.mark.parametrize("kind", ["png", "palette png", "deep png"])
def test_a_wrong_byte_of_a_png_never_changes_a_pixel(kind: str) -> None:
    expected = read_by_opencv(GOOD[kind])
    refused = 0
    for place in range(len(GOOD[kind])):
        content = bytearray(GOOD[kind])
        content[place] ^= 0x55
        try:
            decoded, _ = decode_image(bytes(content), HEIGHT, WIDTH)
        except UndecodableImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(decoded, expected)
    assert refused > 0.9 * len(GOOD[kind])
