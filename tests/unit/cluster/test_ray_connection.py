"""The working directory while Ray is joined."""

from pathlib import Path

import pytest

from distributed_pose.cluster.ray_connection import _working_in


def test_a_working_directory_that_is_deleted_meanwhile_is_gone_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    with _working_in(tmp_path):
        assert Path.cwd() == tmp_path
        (tmp_path / "job").rmdir()
    with pytest.raises(FileNotFoundError):
        Path.cwd()
    monkeypatch.chdir(tmp_path)


def test_the_working_directory_is_the_one_before_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    with pytest.raises(ValueError, match="any"), _working_in(tmp_path):
        raise ValueError("any")
    assert Path.cwd() == tmp_path / "job"
