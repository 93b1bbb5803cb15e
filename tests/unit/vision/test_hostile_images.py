"""No image file makes the decoder use more memory or time than an image of its size needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from distributed_pose.vision.decode import decode_image, decode_unlisted_image
from distributed_pose.vision.headers import UndecodableImageError
from tests.hostile_images import REFUSED, hostile_files
from tests.image_files import HEIGHT, WIDTH

# An image of the annotated size has 5 kB, and a decoder's own tables have hundreds of kilobytes.
MOST_MIB = 24
MOST_S = 1.0


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return hostile_files()


def test_no_file_makes_the_decoder_use_the_memory_or_time_that_it_claims(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    for number, content in enumerate(files.values()):
        (tmp_path / f"{number:03}").write_bytes(content)
    # In a separate process, so that its peak memory is that of the decoder.
    program = [sys.executable, "-m", "tests.hostile_images", str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    costs = {kind: (float(mib), float(s)) for kind, (mib, s) in zip(files, lines, strict=True)}
    assert {k: c for k, c in costs.items() if c[0] > MOST_MIB or c[1] > MOST_S} == {}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_format_whose_header_is_not_read_is_refused_by_name(
    files: dict[str, bytes], kind: str
) -> None:
    if kind not in files:
        pytest.skip("this build of OpenCV does not write the format")
    message = f"^{REFUSED[kind]} is not supported; convert it to JPEG or PNG$"
    for decode in (
        lambda: decode_image(files[kind], HEIGHT, WIDTH),
        lambda: decode_unlisted_image(files[kind]),
    ):
        with pytest.raises(UndecodableImageError, match=message):
            decode()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("TIFF with huge tiles", "tiles of 16000x16000"),
        ("TIFF of two sizes, the large one first", "no header"),
        ("PNG with packed texts", "over 16 compressed texts"),
        ("PNG with more pixels than it has", "bytes for 48x32 pixels"),
        ("JPEG with many scans", "over 500 scans"),
    ],
)
def test_a_file_whose_content_contradicts_its_header_is_refused_with_the_reason(
    files: dict[str, bytes], kind: str, message: str
) -> None:
    with pytest.raises(UndecodableImageError, match=message):
        decode_image(files[kind], HEIGHT, WIDTH)
