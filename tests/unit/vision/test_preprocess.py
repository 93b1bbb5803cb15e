"""Network inputs equal the definition of their profile to the bit, for images of any size."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distributed_pose.records.images import Geometry, InputSize
from distributed_pose.vision.decode import decode_image
from distributed_pose.vision.headers import UndecodableImageError
from distributed_pose.vision.preprocess import preprocess
from distributed_pose.vision.profiles import PROFILES

# (profile, height, width) to (input height, input width, pad top, left, bottom, right).
LAYOUTS = [
    ("modelzoo", 480, 640, (368, 640, 0, 74, 0, 75)),
    ("modelzoo", 640, 480, (368, 640, 0, 182, 0, 182)),
    ("modelzoo", 427, 640, (368, 640, 0, 44, 0, 44)),
    ("modelzoo", 100, 2000, (368, 640, 168, 0, 168, 0)),
    ("modelzoo", 2000, 100, (368, 640, 0, 311, 0, 311)),
    ("modelzoo", 333, 500, (368, 640, 0, 43, 0, 44)),
    ("uint8", 427, 640, (368, 640, 0, 44, 0, 44)),
    ("uint8", 100, 2000, (368, 640, 168, 0, 168, 0)),
    ("uint8", 333, 500, (368, 640, 0, 43, 0, 44)),
    ("upstream", 480, 640, (368, 496, 0, 2, 0, 3)),
    ("upstream", 640, 480, (368, 368, 0, 46, 0, 46)),
    ("upstream", 427, 640, (368, 552, 0, 0, 0, 0)),
    ("upstream", 333, 500, (368, 560, 0, 3, 0, 4)),
    ("upstream", 368, 368, (368, 368, 0, 0, 0, 0)),
    ("upstream", 100, 1000, (368, 3680, 0, 0, 0, 0)),
]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, image)[1].tobytes())


@pytest.mark.parametrize(("profile", "height", "width", "layout"), LAYOUTS)
def test_an_image_is_normalised_resized_and_padded_by_its_profile(
    profile: str, height: int, width: int, layout: tuple[int, ...]
) -> None:
    image = picture(height, width)
    input_height, input_width, top, left, bottom, right = layout
    input_3HW, geometry = preprocess(image, PROFILES[profile])
    assert geometry == Geometry(height, width, top, left, bottom, right)
    assert input_3HW.shape == (3, input_height, input_width)
    np.testing.assert_array_equal(input_3HW, definition(image, profile))


@pytest.mark.parametrize(
    ("profile", "layout"),
    [
        ("modelzoo", (480, 640, 0, 57, 0, 58)),
        ("uint8", (480, 640, 0, 57, 0, 58)),
        ("upstream", (480, 640, 0, 57, 0, 58)),
    ],
)
def test_a_profile_keeps_its_rules_at_another_input_size(
    profile: str, layout: tuple[int, ...]
) -> None:
    sized = PROFILES[profile].sized(InputSize(256, 456))
    image = picture(480, 640)
    input_3HW, geometry = preprocess(image, sized)
    assert input_3HW.shape == sized.input_shape(480, 640) == (3, 256, 456)
    height, width, top, left, bottom, right = layout
    assert geometry == Geometry(height, width, top, left, bottom, right)
    assert sized.input_shape(200, 800)[1:] == ((256, 1024) if profile == "upstream" else (256, 456))


@pytest.mark.parametrize("profile", PROFILES)
@settings(deadline=None, max_examples=60)
@given(size=st.tuples(st.integers(1, 900), st.integers(1, 900)), seed=st.integers(0, 9))
@example(size=(1, 900), seed=0)
@example(size=(900, 1), seed=0)
@example(size=(1, 1), seed=0)
@example(size=(737, 1281), seed=0)
def test_the_input_of_an_image_of_any_size_equals_the_definition_to_the_bit(
    profile: str, size: tuple[int, int], seed: int
) -> None:
    if profile == "upstream" and size[1] > 40 * size[0]:
        size = (size[0], 40 * size[0])  # Its input grows with the width over the height.
    image = picture(*size, seed)
    expected = definition(image, profile)
    input_3HW, geometry = preprocess(image, PROFILES[profile])
    assert input_3HW.dtype == expected.dtype
    np.testing.assert_array_equal(input_3HW, expected)
    assert PROFILES[profile].input_shape(*size) == expected.shape
    batch = np.full((3, *expected.shape), 77, expected.dtype)
    written, again = preprocess(image, PROFILES[profile], batch[1])
    assert written.base is batch
    assert again == geometry
    np.testing.assert_array_equal(batch[1], expected)
    assert (batch[::2] == 77).all()


def definition(image: np.ndarray, profile: str) -> np.ndarray:
    """Returns the network input by the definition of a profile, in the shortest form."""
    height, width = image.shape[:2]
    scale = 368 / height if profile == "upstream" else min(368 / height, 640 / width)
    interpolation = cv2.INTER_CUBIC if profile == "upstream" else cv2.INTER_LINEAR
    if profile != "uint8":
        floats: type[np.floating] = np.float64 if profile == "upstream" else np.float32
        image = (image.astype(floats) - 128) / 256
    if min(height, width) * scale > 0.5:
        resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation)
    else:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = cv2.resize(image, size, interpolation=interpolation)
    height, width = resized.shape[:2]
    canvas_width = -(-max(width, 368) // 8) * 8 if profile == "upstream" else 640
    rows, columns = 368 - height, canvas_width - width
    padding = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)]
    padded = np.pad(resized, padding, constant_values=128 if profile == "uint8" else 0)
    return padded.transpose(2, 0, 1).astype(np.uint8 if profile == "uint8" else np.float32)


@pytest.mark.parametrize(("value", "normalised"), [(0, -0.5), (128, 0), (255, 127 / 256)])
def test_a_pixel_is_centred_at_128_and_scaled_by_256(value: int, normalised: float) -> None:
    image = np.full((368, 640, 3), value, np.uint8)
    assert (preprocess(image, PROFILES["modelzoo"])[0] == normalised).all()
    assert (preprocess(image, PROFILES["uint8"])[0] == value).all()


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (5000, 3)])
@pytest.mark.parametrize("profile", PROFILES)
def test_images_of_extreme_sizes_have_an_input(profile: str, size: tuple[int, int]) -> None:
    if profile == "upstream" and size[1] > 1000:
        size = (1, 40)
    input_3HW, _ = preprocess(picture(*size), PROFILES[profile])
    assert input_3HW.shape[1] == 368
    assert not input_3HW.shape[2] % 8


def test_a_lossless_image_is_decoded_to_blue_green_red() -> None:
    image = picture(4, 6)
    decoded, _ = decode_image(encoded(image), 4, 6)
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_grey_image_has_three_equal_channels(suffix: str) -> None:
    grey = np.full((8, 8), 77, np.uint8)
    decoded, _ = decode_image(encoded(grey, suffix), 8, 8)
    assert decoded.shape == (8, 8, 3)
    assert (decoded == 77).all()


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint16), (3, np.uint16), (4, np.uint8)])
def test_a_png_of_any_kind_has_three_channels_of_bytes(
    channels: int, dtype: type[np.integer]
) -> None:
    decoded, _ = decode_image(encoded(np.zeros((4, 6, channels), dtype)), 4, 6)
    assert (decoded.shape, decoded.dtype) == ((4, 6, 3), np.uint8)


def test_an_exif_orientation_is_applied() -> None:
    jpeg = encoded(picture(16, 32), ".jpg")
    # A big-endian TIFF header and one entry: orientation, a short, is 6 (rotate clockwise).
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    exif = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    turned, _ = decode_image(jpeg[:2] + exif + jpeg[2:], 32, 16)
    upright, _ = decode_image(jpeg, 16, 32)
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_truncated_at_any_byte_is_refused(progressive: int) -> None:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    jpeg = cv2.imencode(".jpg", picture(16, 16), options)[1].tobytes()
    for length in range(len(jpeg)):
        with pytest.raises(UndecodableImageError):
            decode_image(jpeg[:length], 16, 16)
    assert decode_image(jpeg + b"appended", 16, 16).image_HW3.shape == (16, 16, 3)


JPEG = encoded(picture(64, 64), ".jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"not a picture", "not an image"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:100], "truncated|not an image"),
        (encoded(picture(64, 32)), "32x64.*64x64"),
    ],
)
def test_content_that_is_not_a_complete_image_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UndecodableImageError, match=message):
        decode_image(content, 64, 64)
