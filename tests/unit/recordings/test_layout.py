"""The layout of a result folder is detected from names and sizes, or refused as ambiguous."""

import logging
from pathlib import Path

import numpy as np
import pytest

from distributed_pose.errors import SetupError
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.recordings.layout import Layout, check_complete, find_layout, scan
from tests.chain_sets import chain_of
from tests.result_folders import GRID, Outputs, text, write_results

NAMES = ("one", "two", "three")
GRIDS = dict.fromkeys(NAMES, GRID)
HEATMAPS, PAFS = np.full((19, *GRID), 0.25, np.float32), np.full((38, *GRID), 0.5, np.float32)

ORDERS: dict[str, Outputs] = {
    "HP": (HEATMAPS, PAFS),
    "PH": (PAFS, HEATMAPS),
    "HPHP": (HEATMAPS, PAFS, HEATMAPS, PAFS),
    "PHPH": (PAFS, HEATMAPS, PAFS, HEATMAPS),
}


def folder_of(
    folder: Path, order: str, suffix: str = ".bin", first: int = 0, dtype: str = "<f4"
) -> Path:
    outputs = dict.fromkeys(NAMES, ORDERS[order])
    return write_results(folder, outputs, suffix, first, dtype, digits=3)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".bin", "float32"), (".bin", "float16"), (".txt", "float32")]
)
def test_the_last_stage_is_detected_by_suffixes_and_sizes(
    tmp_path: Path, order: str, first: int, suffix: str, dtype: str
) -> None:
    folder = folder_of(tmp_path, order, suffix, first, dtype)
    numbers = tuple(range(first, first + len(order)))
    heatmaps, pafs = (first + order.rindex(kind) for kind in "HP")
    expected = Layout(suffix, numbers, heatmaps, pafs, dtype)
    assert find_layout(folder, scan(folder), GRIDS, coco_body()) == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [2, 3, 6, 100])
def test_the_maps_of_any_keypoint_set_are_detected(tmp_path: Path, count: int, dtype: str) -> None:
    keypoints = chain_of(count)
    channels = keypoints.num_heatmaps, keypoints.num_pafs
    maps = tuple(np.zeros((size, *GRID), np.float32) for size in channels)
    folder = write_results(tmp_path, dict.fromkeys(NAMES, maps * 2), ".bin", 0, dtype)
    expected = Layout(".bin", (0, 1, 2, 3), 2, 3, dtype)
    assert find_layout(folder, scan(folder), GRIDS, keypoints) == expected


def test_the_maps_of_another_keypoint_set_are_refused_with_the_size_of_the_runs(
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path, "HP")
    expected = r"76 bytes per cell.*chain_of_6 has pairs of heatmaps, 7 .* and PAFs, 10,"
    with pytest.raises(SetupError, match=expected):
        find_layout(folder, scan(folder), GRIDS, chain_of(6))


def test_maps_of_different_sizes_are_detected_by_the_size_of_each_image(tmp_path: Path) -> None:
    grids = {"one": (46, 46), "two": (46, 60), "three": (46, 92)}
    for name, grid in grids.items():
        outputs = {name: tuple(np.zeros((channels, *grid), np.float32) for channels in (19, 38))}
        write_results(tmp_path, outputs)
    assert find_layout(tmp_path, scan(tmp_path), grids, coco_body()) == Layout(".bin", (0, 1), 0, 1)


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
@pytest.mark.parametrize("damaged", NAMES)
def test_one_damaged_file_does_not_change_the_detected_layout(
    tmp_path: Path, suffix: str, damaged: str
) -> None:
    folder = folder_of(tmp_path, "HP", suffix)
    expected = find_layout(folder, scan(folder), GRIDS, coco_body())
    (folder / f"{damaged}_0{suffix}").write_text("a word")
    assert find_layout(folder, scan(folder), GRIDS, coco_body()) == expected


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ((HEATMAPS, HEATMAPS), "_0.bin of 76 bytes per cell, _1.bin of 76 bytes per cell"),
        ((HEATMAPS, HEATMAPS, PAFS, PAFS), "_2.bin of 152 bytes per cell"),
        ((HEATMAPS, PAFS, PAFS, HEATMAPS), "_3.bin of 76 bytes per cell"),
        ((HEATMAPS, PAFS.astype(np.float16)), "_0.bin of 76 bytes per cell, _1.bin of 76"),
        ((HEATMAPS, PAFS[:21]), "_1.bin of 84 bytes per cell"),
    ],
)
def test_sizes_that_fit_no_layout_or_several_are_listed(
    tmp_path: Path, outputs: Outputs, found: str
) -> None:
    for name in NAMES:
        for number, array in enumerate(outputs):
            (tmp_path / f"{name}_{number}.bin").write_bytes(array.tobytes())
    with pytest.raises(SetupError, match="ambiguous") as caught:
        find_layout(tmp_path, scan(tmp_path), GRIDS, coco_body())
    assert found in str(caught.value)


def test_binary_and_text_files_in_one_folder_are_ambiguous(tmp_path: Path) -> None:
    folder_of(tmp_path, "HP")
    folder_of(tmp_path, "HP", ".txt")
    with pytest.raises(SetupError, match=r"6 files \.bin and 6 files \.txt"):
        find_layout(tmp_path, scan(tmp_path), GRIDS, coco_body())


@pytest.mark.parametrize("numbers", [(0,), (2, 3), (0, 2), (0, 1, 2), (1, 2, 3, 4, 5)])
def test_output_numbers_that_are_not_two_or_four_in_a_row_are_listed(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    for number in numbers:
        (tmp_path / f"one_{number}.bin").write_bytes(HEATMAPS.tobytes())
    with pytest.raises(SetupError, match=f"_{numbers[-1]} in 1 such as one_{numbers[-1]}.bin"):
        find_layout(tmp_path, scan(tmp_path), GRIDS, coco_body())


def test_a_missing_output_of_one_image_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "HPHP", ".txt", first=1)
    (folder / "two_3.txt").unlink()
    found = scan(folder)
    layout = find_layout(folder, found, GRIDS, coco_body())
    with pytest.raises(SetupError, match=r"two_3\.txt is missing") as caught:
        check_complete(folder, found, layout, NAMES, "pad.txt")
    assert "pad.txt" in str(caught.value)


def test_outputs_of_an_unknown_image_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "HP")
    found = scan(folder)
    layout = find_layout(folder, found, GRIDS, coco_body())
    with pytest.raises(
        SetupError, match=r"two_0\.bin belongs to no image that pad\.txt lists, and 1"
    ):
        check_complete(folder, found, layout, ["one", "three"], "pad.txt")


def test_a_folder_with_outputs_of_unknown_images_only_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "HP")
    with pytest.raises(SetupError, match="other images only"):
        find_layout(folder, scan(folder), {"four": GRID}, coco_body())


def test_stray_files_are_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path, "HP")
    before = scan(folder)
    strays = ("sumary.json", "one.bin", "COCO_val2014_000000000042.bin", "one_0.npy")
    for stray in (*strays, "pad.txt"):
        (folder / stray).write_text("something")
    (folder / "two_0.bin.d").mkdir()
    with caplog.at_level(logging.WARNING):
        assert scan(folder) == before
    assert "COCO_val2014_000000000042.bin, one.bin, one_0.npy and 1 more" in caplog.text
    assert "pad.txt" not in caplog.text


@pytest.mark.parametrize("content", ["nothing", "no outputs"])
def test_a_folder_without_outputs_is_refused(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "results"
    if content == "no outputs":
        folder.mkdir()
        (folder / "notes.txt").write_text(text(HEATMAPS[:1]))
    with pytest.raises(SetupError, match="results"):
        scan(folder)
