"""Files of maps, text and binary: values are read exactly, damaged files are refused by name."""

from pathlib import Path

import numpy as np
import pytest

from distributed_pose.errors import SetupError
from distributed_pose.recordings.values import read_maps, read_text, write_maps
from tests.result_folders import text

SHAPE = (2, 3, 4)
MAPS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("between", [" ", "\n", "\r\n", "\t", "  \n ", " \r\n\r\n"])
def test_values_in_text_may_be_separated_by_any_whitespace(tmp_path: Path, between: str) -> None:
    path = tmp_path / "a_0.txt"
    path.write_bytes((between + text(MAPS).replace(" ", between)).encode())
    np.testing.assert_array_equal(read_maps(path, "float32", SHAPE), MAPS)


def test_a_long_text_file_is_read_completely(tmp_path: Path) -> None:
    path = tmp_path / "a_0.txt"
    path.write_text("1 2.5 -3e-2 " * 400_000)
    values = read_text(path)
    assert values.shape == (1_200_000,)
    np.testing.assert_array_equal(values[-3:], np.array([1, 2.5, -0.03], np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_binary_values_are_little_endian(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a_0.bin"
    halves = MAPS.astype(np.float16)
    path.write_bytes(halves.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    read = read_maps(path, dtype, SHAPE)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, halves)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_written_maps_are_read_back_unchanged(tmp_path: Path, dtype: type[np.floating]) -> None:
    maps = MAPS.astype(dtype)
    write_maps(tmp_path / "a_0.bin", maps)
    assert (tmp_path / "a_0.bin").stat().st_size == 4 * maps.size
    np.testing.assert_array_equal(read_maps(tmp_path / "a_0.bin", "float32", SHAPE), maps)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a_0.bin", MAPS.tobytes()[:-4], r"has 92 bytes, and \[2, 3, 4\] maps have 96"),
        ("a_0.bin", MAPS.tobytes() + b"\0", "has 97 bytes"),
        ("a_0.bin", b"", "has 0 bytes"),
        ("a_0.bin", np.full(SHAPE, np.nan, np.float32).tobytes(), "not finite"),
        ("a_0.bin", np.full(SHAPE, -np.inf, np.float32).tobytes(), "not finite"),
        ("a_0.txt", b"1 " * 23, "has 23 values, .* have 24"),
        ("a_0.txt", b"1 " * 20 + b"2 oops 3 4", "invalid value 'oops'"),
        ("a_0.txt", b"1 " * 22 + b"2,5 3", "does not contain only numbers"),
        ("a_0.txt", b'1 "2" ' * 12, "invalid value"),
        ("a_0.txt", b"1 " * 23 + b"nan", "not finite"),
        ("a_0.txt", b"1 " * 23 + b"-inf", "not finite"),
        ("a_0.txt", b"1 " * 12 + b"\0" * 24, "does not contain only numbers"),
        ("a_0.txt", b" \n ", "is empty"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SetupError, match=reason) as caught:
        read_maps(tmp_path / name, "float32", SHAPE)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["a_0.bin", "a_0.txt"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError, match=name):
        read_maps(tmp_path / name, "float32", SHAPE)
