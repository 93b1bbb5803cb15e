"""The files of the guide's step 3 equal the guide's definition, byte for byte.

Images with a pinned hash have sizes for which every factor is a power of two. So nothing is
rounded, and all machines write the same bytes.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from distributed_pose.errors import SetupError
from distributed_pose.files.local import sha256_hex
from distributed_pose.guide.preprocess import preprocess_folder, write_info
from distributed_pose.recordings.pads import maps_grid, read_pads
from distributed_pose.records.images import InputSize
from tests.conftest import Dataset
from tests.image_files import encode

# Height and width of an image, and the SHA-256 of its network input.
GOLDEN = {
    "half.png": ((736, 1280), "13b57ed3459d96cb3346ffe7af07d8e1b9bb60e6dfc05dbbbbacdb4c9593bad7"),
    "narrow.png": ((184, 100), "12fc2adeaeb53282b3084b8f04a1366f1e858a094a6bd0d7a324d9ddb5503763"),
    "small.png": ((92, 160), "26f88f52fa9ea35b4545a203e3033fa07b2f36f481365649de65a97027245623"),
}
GOLDEN_PADS = (
    "half.png 736 1280 0 0 0 0\nnarrow.png 184 100 0 0 220 220\nsmall.png 92 160 0 0 0 0\n"
)

ODD = {
    "a_pixel.png": ((1, 1), "1 1 0 0 136 136"),
    "a_row.png": ((1, 640), "1 640 183 184 0 0"),
    "a_column.png": ((368, 1), "368 1 0 0 319 320"),
    "very_wide.png": ((3, 4001), "3 4001 183 184 0 0"),
    "very_tall.png": ((4500, 7), "4500 7 0 0 319 320"),
    "large.png": ((4100, 1500), "4100 1500 0 0 252 253"),
}


def save(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, size in sizes.items():
        (folder / name).write_bytes(encode(".png", pattern(*size)))
    return folder


def pattern(height: int, width: int) -> np.ndarray:
    """Returns a deterministic image whose neighbouring pixels all differ."""
    y, x, channel = np.ogrid[:height, :width, :3]
    values = y * y * 31 + x * x * 17 + x * y * 7 + channel * 101 + y * 13 + x * 5
    return (values % 251).astype(np.uint8)


def as_the_guide_defines(image: np.ndarray) -> bytes:
    """Returns the network input by the definition in the guide, step by step."""
    height, width = image.shape[:2]
    normalised = (image.astype(np.float32) - 128) * np.float32(1 / 256)
    scale = min(368 / height, 640 / width)
    resized = cv2.resize(normalised, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    rows, columns = 368 - resized.shape[0], 640 - resized.shape[1]
    top, left = rows // 2, columns // 2
    padding = (top, rows - top, left, columns - left)
    padded = cv2.copyMakeBorder(resized, *padding, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return padded.transpose(2, 0, 1).astype("<f4").tobytes()


def test_the_files_of_three_images_have_the_pinned_bytes(tmp_path: Path) -> None:
    images = save(tmp_path / "images", {name: size for name, (size, _) in GOLDEN.items()})
    assert preprocess_folder(images, tmp_path / "bins", tmp_path / "out" / "pad.txt") == 3
    assert (tmp_path / "out" / "pad.txt").read_text() == GOLDEN_PADS
    found = {
        name: sha256_hex((tmp_path / "bins" / name.replace(".png", ".bin")).read_bytes())
        for name in GOLDEN
    }
    assert found == {name: digest for name, (_, digest) in GOLDEN.items()}


def test_inputs_equal_the_guides_definition_to_the_bit(people: Dataset, tmp_path: Path) -> None:
    number = preprocess_folder(people.images, tmp_path, tmp_path / "pad.txt")
    names = sorted(path.name for path in people.images.iterdir())
    assert number == len(names) == 12
    for name in names:
        image = cv2.imread(str(people.images / name))
        assert image is not None
        expected = as_the_guide_defines(image)
        assert (tmp_path / name).with_suffix(".bin").read_bytes() == expected


def test_inputs_of_another_size_are_written_with_their_padding(tmp_path: Path) -> None:
    images = save(tmp_path / "images", {"a.png": (480, 640)})
    pad_file = tmp_path / "pad.txt"
    size = InputSize(256, 456)
    preprocess_folder(images, tmp_path, pad_file, size=size)
    assert (tmp_path / "a.bin").stat().st_size == 3 * 256 * 456 * 4
    assert pad_file.read_text() == "a.png 480 640 0 0 57 58\n"
    (geometry,) = read_pads(pad_file).values()
    assert maps_grid("a.png", geometry, size) == (32, 57)
    with pytest.raises(SetupError, match="--input"):
        maps_grid("a.png", geometry)


def test_lines_and_bytes_do_not_depend_on_the_order_of_files_in_the_folder(
    people: Dataset, tmp_path: Path
) -> None:
    names = sorted(path.name for path in people.images.iterdir())
    written: list[dict[str, bytes]] = []
    for order in (names, names[::-1]):
        folder = tmp_path / f"images-{len(written)}"
        folder.mkdir()
        for name in order:
            (folder / name).write_bytes((people.images / name).read_bytes())
        output = tmp_path / f"bins-{len(written)}"
        preprocess_folder(folder, output, output / "pad.txt")
        written.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert written[0] == written[1]
    lines = written[0]["pad.txt"].decode().splitlines()
    assert [line.partition(" ")[0] for line in lines] == names


def test_images_of_extreme_sizes_have_inputs_of_the_same_size(tmp_path: Path) -> None:
    images = save(tmp_path / "images", {name: size for name, (size, _) in ODD.items()})
    preprocess_folder(images, tmp_path / "bins", tmp_path / "pad.txt")
    lines = [f"{name} {padding}" for name, (_, padding) in sorted(ODD.items())]
    assert (tmp_path / "pad.txt").read_text().splitlines() == lines
    for name, (_, padding) in ODD.items():
        content = (tmp_path / "bins" / name.replace(".png", ".bin")).read_bytes()
        input_3HW = np.frombuffer(content, "<f4").reshape(3, 368, 640)
        top, bottom, left, right = map(int, padding.split()[2:])
        inside = input_3HW[:, top : 368 - bottom, left : 640 - right]
        assert np.abs(inside).max() > 0
        assert np.count_nonzero(input_3HW) == np.count_nonzero(inside)


@pytest.mark.parametrize("name", ["large.png", "very_wide.png"])
def test_large_and_long_images_are_resized_as_in_the_guide(tmp_path: Path, name: str) -> None:
    (height, width), _ = ODD[name]
    if name == "very_wide.png":
        height = 700  # OpenCV refuses to resize to less than half a row.
    images = save(tmp_path / "images", {name: (height, width)})
    preprocess_folder(images, tmp_path, tmp_path / "pad.txt")
    expected = as_the_guide_defines(pattern(height, width))
    assert (tmp_path / name).with_suffix(".bin").read_bytes() == expected


@pytest.mark.parametrize("damage", [b"", b"no image at all", "truncated"])
def test_an_unreadable_image_is_refused_by_name(
    people: Dataset, tmp_path: Path, damage: bytes | str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in people.images.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    victim = sorted(images.iterdir())[5]
    victim.write_bytes(victim.read_bytes()[:2000] if isinstance(damage, str) else damage)
    with pytest.raises(SetupError, match=victim.name):
        preprocess_folder(images, tmp_path / "bins", tmp_path / "pad.txt")
    assert not (tmp_path / "pad.txt").exists()


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    images = save(tmp_path / "images", {"a.png": (8, 8)})
    (images / ".DS_Store").write_bytes(b"\0\0")
    (images / "more").mkdir()
    assert preprocess_folder(images, tmp_path / "bins", tmp_path / "pad.txt") == 1


def test_images_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    images = save(tmp_path / "images", {"a.png": (8, 8), "a.bmp": (8, 8)})
    with pytest.raises(SetupError, match=r"a\.bmp and a\.png would both be a\.bin"):
        preprocess_folder(images, tmp_path / "bins", tmp_path / "pad.txt")


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_without_images_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match=folder):
        preprocess_folder(tmp_path / folder, tmp_path / "bins", tmp_path / "pad.txt")


def test_an_info_file_lists_index_path_width_and_height_in_order_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bins").mkdir()
    for name in ("b.bin", "a.bin", "c.bin", "pad.txt"):
        Path("bins", name).write_bytes(b"")
    assert write_info("./bins", Path("prep.info"), 640, 368) == 3
    expected = "0 ./bins/a.bin 640 368\n1 ./bins/b.bin 640 368\n2 ./bins/c.bin 640 368\n"
    assert Path("prep.info").read_text() == expected


def test_an_info_file_without_input_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no \.bin files"):
        write_info(str(tmp_path), tmp_path / "prep.info", 640, 368)
