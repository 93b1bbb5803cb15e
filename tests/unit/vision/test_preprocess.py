import cv2
import numpy as np
import pytest

from distributed_pose.vision.preprocess import UndecodableImageError, decode_image, preprocess
from distributed_pose.vision.profiles import PROFILES

# (profile, height, width) to (input height, input width, pad top, left, bottom, right).
LAYOUTS = [
    ("modelzoo", 480, 640, (368, 640, 0, 74, 0, 75)),
    ("modelzoo", 640, 480, (368, 640, 0, 182, 0, 182)),
    ("modelzoo", 427, 640, (368, 640, 0, 44, 0, 44)),
    ("modelzoo", 100, 2000, (368, 640, 168, 0, 168, 0)),
    ("upstream", 480, 640, (368, 496, 0, 2, 0, 3)),
    ("upstream", 640, 480, (368, 368, 0, 46, 0, 46)),
    ("upstream", 368, 368, (368, 368, 0, 0, 0, 0)),
]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, image)[1].tobytes())


@pytest.mark.parametrize(("profile", "height", "width", "layout"), LAYOUTS)
def test_scale_and_padding_are_those_of_the_profile(
    profile: str, height: int, width: int, layout: tuple[int, ...]
) -> None:
    input_3HW, geometry = preprocess(picture(height, width), PROFILES[profile])
    pads = (geometry.pad_top, geometry.pad_left, geometry.pad_bottom, geometry.pad_right)
    assert (*input_3HW.shape[1:], *pads) == layout
    assert (geometry.image_height, geometry.image_width) == (height, width)
    content = np.ones(input_3HW.shape[1:], bool)
    top, left, bottom, right = pads
    content[top : content.shape[0] - bottom, left : content.shape[1] - right] = False
    assert not input_3HW[:, content].any()


@pytest.mark.parametrize(
    ("profile", "interpolation"), [("modelzoo", cv2.INTER_LINEAR), ("upstream", cv2.INTER_CUBIC)]
)
def test_the_image_is_normalised_before_it_is_resized(profile: str, interpolation: int) -> None:
    image = picture(480, 640)
    scale = 368 / 480
    expected = cv2.resize(
        (image.astype(np.float32) - 128) / 256,
        None,
        fx=scale,
        fy=scale,
        interpolation=interpolation,
    )
    input_3HW, geometry = preprocess(image, PROFILES[profile])
    found = input_3HW[:, :, geometry.pad_left : geometry.pad_left + expected.shape[1]]
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (5000, 3)])
@pytest.mark.parametrize("profile", PROFILES)
def test_odd_sizes_have_an_input(profile: str, size: tuple[int, int]) -> None:
    if profile == "upstream" and size[1] > 1000:
        size = (1, 40)
    input_3HW, _ = preprocess(picture(*size), PROFILES[profile])
    assert input_3HW.shape[1] == 368
    assert not input_3HW.shape[2] % 8


def test_a_lossless_image_is_decoded_as_blue_green_red() -> None:
    image = picture(4, 6)
    np.testing.assert_array_equal(decode_image(encoded(image), 4, 6), image)


def test_a_grey_jpeg_has_three_equal_channels() -> None:
    grey = np.full((8, 8), 77, np.uint8)
    decoded = decode_image(encoded(grey, ".jpg"), 8, 8)
    assert decoded.shape == (8, 8, 3)
    assert (decoded == decoded[..., :1]).all()


def test_an_orientation_in_exif_is_followed() -> None:
    jpeg = encoded(picture(16, 32), ".jpg")
    # A big-endian TIFF header and one entry: orientation, a short, is 6 (turned clockwise).
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    exif = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    assert decode_image(jpeg[:2] + exif + jpeg[2:], 32, 16).shape == (32, 16, 3)


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
def test_what_is_no_whole_image_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UndecodableImageError, match=message):
        decode_image(content, 64, 64)
