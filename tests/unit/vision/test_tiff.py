"""TIFFs are named as damaged where libtiff says so, which OpenCV writes to the error stream."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from distributed_pose.vision.decode import decode_image, set_opencv_log_level
from tests.damaged_jpegs import scene

HEIGHT, WIDTH = 120, 160
COMPRESSIONS = {"none": 1, "LZW": 5, "Deflate": 8, "PackBits": 32773}
KINDS = {
    "colour": scene(HEIGHT, WIDTH),
    "grey": scene(HEIGHT, WIDTH)[..., 0],
    "deep": scene(HEIGHT, WIDTH).astype(np.uint16) * 257,
}


@pytest.fixture
def errors_shown() -> Iterator[None]:
    """OpenCV writes the errors of its libraries, which the package silences."""
    warnings = 3
    before = set_opencv_log_level(warnings)
    yield
    set_opencv_log_level(before)


@pytest.mark.skipif(hasattr(cv2, "setLogLevel"), reason="OpenCV 4 keeps libtiff's errors to itself")
@pytest.mark.usefixtures("errors_shown")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tiff_is_damaged_where_libtiff_says_so(
    compression: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [cv2.IMWRITE_TIFF_COMPRESSION, COMPRESSIONS[compression]]
    whole = bytes(cv2.imencode(".tiff", KINDS[kind], options)[1])
    assert not decode_image(whole, HEIGHT, WIDTH).damage
    random = np.random.default_rng(0)
    found, expected = [], []
    for _ in range(60):
        tiff = bytearray(whole)
        tiff[int(random.integers(len(whole) // 3, len(whole) * 9 // 10))] ^= 1 << random.integers(8)
        capfd.readouterr()
        image = cv2.imdecode(np.frombuffer(tiff, np.uint8), cv2.IMREAD_COLOR)
        expected.append("TIFF_Error" in capfd.readouterr().err)
        decoded, damage = decode_image(bytes(tiff), HEIGHT, WIDTH)
        found.append(bool(damage))
        np.testing.assert_array_equal(decoded, image)
    assert found == expected
    # Deflate alone has a checksum; LZW and PackBits make something of most bytes.
    least, most = {"none": (0, 0), "Deflate": (40, 60)}.get(compression, (0, 60))
    assert least <= sum(found) <= most
