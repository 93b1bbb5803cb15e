"""JPEGs are decoded to OpenCV's pixels, and reported as damaged exactly where libjpeg warns.

The reference is the libjpeg in OpenCV, which writes its warnings to the standard error stream.
"""

import cv2
import numpy as np
import pytest

from distributed_pose.vision.decode import Decoded, decode_image
from distributed_pose.vision.headers import UndecodableImageError
from tests.conftest import Dataset
from tests.damaged_jpegs import damage, whole_jpegs
from tests.image_files import cmyk_jpeg, encode, good_files, jpeg_segment, turned_jpeg

WHOLE = whole_jpegs()
JPEG = WHOLE["4:2:0 baseline"]
CUT = JPEG[: len(JPEG) // 2] + b"\xff\xd9"


class Judge:
    """Decodes with OpenCV, and captures the warnings of its libjpeg."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def decode(self, jpeg: bytes) -> tuple[np.ndarray | None, str]:
        self._capfd.readouterr()
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        return image, self._capfd.readouterr().err.strip()


@pytest.fixture
def judge(capfd: pytest.CaptureFixture[str]) -> Judge:
    return Judge(capfd)


def decode(jpeg: bytes, size: tuple[int, ...]) -> Decoded | None:
    try:
        return decode_image(jpeg, *size)
    except UndecodableImageError:
        return None


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_jpeg_has_the_pixels_of_opencv_and_no_damage(kind: str, judge: Judge) -> None:
    expected, warning = judge.decode(WHOLE[kind])
    assert expected is not None
    assert not warning
    decoded, damaged = decode_image(WHOLE[kind], *expected.shape[:2])
    assert not damaged
    np.testing.assert_array_equal(decoded, expected)


def test_real_images_have_the_pixels_of_opencv_and_no_damage(coco_mini: Dataset) -> None:
    for record in coco_mini.records():
        content = (coco_mini.images / record.file_name).read_bytes()
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        decoded, damaged = decode_image(content, record.height, record.width)
        assert not damaged
        np.testing.assert_array_equal(decoded, expected)


def test_images_of_other_formats_have_no_damage() -> None:
    for kind, content in good_files().items():
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        # libjpeg warns of bytes between the segments of the padded file.
        assert bool(decode_image(content, *image.shape[:2]).damage) == (kind == "padded jpeg")


def test_400_damaged_files_are_reported_exactly_where_libjpeg_warns(judge: Judge) -> None:
    random = np.random.default_rng(0)
    kinds = sorted(WHOLE)
    num_named = num_decoded = 0
    for _ in range(400):
        kind = kinds[int(random.integers(len(kinds)))]
        jpeg = damage(WHOLE[kind], random)
        expected, warning = judge.decode(jpeg)
        size = judge.decode(WHOLE[kind])[0].shape[:2]  # type: ignore[union-attr]
        found = decode(jpeg, size)
        # Where a file ends inside a segment, OpenCV decodes nothing and libjpeg the available part.
        assert found is not None or expected is None or expected.shape[:2] != size
        if found is None:
            continue
        assert bool(found.damage) == bool(warning), (kind, found.damage, warning)
        num_decoded += 1
        num_named += bool(found.damage)
        if expected is not None:
            np.testing.assert_array_equal(found.image_HW3, expected)
    # The other files are valid encodings of another picture, which cannot be detected.
    assert num_named > 0.65 * num_decoded > 200


@pytest.mark.parametrize(
    ("kind", "jpeg"),
    [
        *((f"orientation {n}", turned_jpeg(n)) for n in (1, 3, 6, 8)),
        ("CMYK", cmyk_jpeg()),
    ],
)
def test_damage_is_also_detected_in_jpegs_that_opencv_decodes(
    kind: str, jpeg: bytes, judge: Judge
) -> None:
    whole, _ = judge.decode(jpeg)
    assert whole is not None
    size = whole.shape[:2]
    assert not decode_image(jpeg, *size).damage, kind
    cut = jpeg[: (jpeg.rindex(b"\xff\xda") + len(jpeg)) // 2] + b"\xff\xd9"
    expected, warning = judge.decode(cut)
    found = decode_image(cut, *size)
    assert found.damage in warning
    np.testing.assert_array_equal(found.image_HW3, expected)


def test_damage_is_reported_in_the_words_of_libjpeg(judge: Judge) -> None:
    found = decode(CUT, judge.decode(JPEG)[0].shape[:2])  # type: ignore[union-attr]
    assert found is not None
    assert found.damage == "Corrupt JPEG data: premature end of data segment"


def test_the_damage_of_an_upright_colour_jpeg_is_not_written_to_the_terminal(
    judge: Judge, capfd: pytest.CaptureFixture[str]
) -> None:
    size = judge.decode(JPEG)[0].shape[:2]  # type: ignore[union-attr]
    capfd.readouterr()
    found = decode(CUT, size)
    assert found is not None
    assert found.damage
    assert capfd.readouterr() == ("", "")


def test_an_orientation_outside_exif_is_ignored(judge: Judge) -> None:
    # The bytes of an orientation in a segment that is not EXIF.
    entry = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    jpeg = encode(".jpg")
    jpeg = jpeg[:2] + jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + entry) + jpeg[2:]
    expected, _ = judge.decode(jpeg)
    assert expected is not None
    np.testing.assert_array_equal(decode_image(jpeg, *expected.shape[:2]).image_HW3, expected)
