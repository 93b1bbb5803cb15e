"""`pad.txt`: its format, its errors by line, and the size of maps that follows from it."""

from pathlib import Path

import pytest

from distributed_pose.errors import SetupError
from distributed_pose.recordings.pads import maps_grid, output_names, pads_content, read_pads
from distributed_pose.records.images import Geometry, ImageRecord
from distributed_pose.vision.profiles import PROFILES

WIDE = ("000000000139.jpg", Geometry(426, 640, 0, 43, 0, 44))


def pads(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_line_holds_name_size_and_padding_in_the_order_top_bottom_left_right() -> None:
    tall = ("tall one.png", Geometry(640, 100, 1, 4, 2, 8))
    expected = b"000000000139.jpg 426 640 0 0 43 44\ntall one.png 640 100 1 2 4 8\n"
    assert pads_content([WIDE, tall]) == expected


@pytest.mark.parametrize("name", ["a.jpg", "with blanks .jpg", "\udcffbytes.jpg", "中.jpg"])
def test_written_lines_are_read_back_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / "pad.txt").write_bytes(pads_content([(name, WIDE[1])]))
    assert read_pads(tmp_path / "pad.txt") == {name: WIDE[1]}


def test_a_name_with_a_line_break_is_refused() -> None:
    with pytest.raises(SetupError, match="line break"):
        pads_content([("a\nb.jpg", WIDE[1])])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a.jpg 1 2 3 4 5\n", "line 1"),
        ("a.jpg 1 2 0 0 0 0\nb.jpg 1 2 0 0 -1 0\n", "line 2"),
        ("a.jpg 1 2 0 0 0 0.5\n", "line 1"),
        ("a.jpg 1 2 0 0 0 0\na.jpg 1 2 0 0 0 0\n", "a.jpg is listed twice"),
        ("", "lists no images"),
    ],
)
def test_an_invalid_line_is_refused_by_its_number(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SetupError, match=named) as caught:
        read_pads(pads(tmp_path / "pad.txt", text))
    assert str(tmp_path / "pad.txt") in str(caught.value)


def test_a_missing_file_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read"):
        read_pads(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", [(426, 640), (640, 426), (1, 5000), (5000, 1), (333, 4001)])
def test_the_size_of_the_maps_follows_from_the_padding(profile: str, size: tuple[int, int]) -> None:
    _, height, width = PROFILES[profile].input_shape(*size)
    assert maps_grid("a.jpg", PROFILES[profile].geometry(*size)) == (height // 8, width // 8)


def test_a_padding_that_no_profile_has_is_refused_with_the_name_of_the_image() -> None:
    with pytest.raises(SetupError, match=r"a\.jpg, an image of 640x426"):
        maps_grid("a.jpg", Geometry(426, 640, 43, 0, 44, 0))


def test_images_whose_files_would_have_the_same_name_are_refused() -> None:
    images = [ImageRecord(1, "a/7.jpg", 8, 8), ImageRecord(2, "b/7.png", 8, 8)]
    assert output_names(images[:1]) == {1: "7"}
    with pytest.raises(SetupError, match=r"a/7\.jpg and b/7\.png"):
        output_names(images)


@pytest.mark.parametrize("size", [(30000, 30000), (2**31 - 1, 1), (1, 2**27)])
def test_an_image_over_the_size_limit_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SetupError, match=rf"a\.jpg is of {size[1]}x{size[0]} pixels, over"):
        maps_grid("a.jpg", PROFILES["modelzoo"].geometry(*size))
