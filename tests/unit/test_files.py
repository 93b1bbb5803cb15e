from pathlib import Path

import pytest

from distributed_pose import ExecutionError
from distributed_pose.files import sha256_hex, write_atomically


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_atomically(path, "first")
    write_atomically(path, b"second")
    assert path.read_text() == "second"
    assert [*path.parent.iterdir()] == [path]


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(ExecutionError, match="taken"):
        write_atomically(path, "content")
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(ExecutionError, match="taken"):
        write_atomically(tmp_path / "taken" / "file.txt", "content")


def test_a_file_can_be_read_by_others(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file.txt", "content")
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o644


def test_content_is_identified_by_its_sha256() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_hex(b"abc") == expected
