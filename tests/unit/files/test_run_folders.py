"""Each run without a name gets a new folder, and the link `latest` points to the last one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from distributed_pose import ExecutionError
from distributed_pose.files import run_folders
from distributed_pose.files.run_folders import new_run_folder, point_latest_at


class Clock(datetime):
    """A clock that always returns the same time."""

    @classmethod
    def now(cls, tz: object = None) -> "Clock":
        assert tz is UTC
        return cls(2024, 2, 29, 23, 5, 7, tzinfo=UTC)


def test_each_run_without_a_name_gets_a_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folders, "datetime", Clock)
    folders = []
    for _ in range(3):
        folders.append(new_run_folder(tmp_path / "runs"))
        assert folders[-1].is_dir()
    assert [folder.name for folder in folders] == [
        "20240229T230507Z",
        "20240229T230507Z-2",
        "20240229T230507Z-3",
    ]


def test_the_link_latest_points_to_the_last_folder_even_after_a_move(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        point_latest_at(runs / name)
        (runs / name / "report.json").write_text(name)
    assert (runs / "latest" / "report.json").read_text() == "second"
    assert sorted(path.name for path in runs.iterdir()) == ["first", "latest", "second"]
    moved = runs.rename(tmp_path / "moved")
    assert (moved / "latest" / "report.json").read_text() == "second"


def test_a_folder_with_the_name_of_the_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(ExecutionError, match=rf"cannot write {tmp_path}/latest: "):
        point_latest_at(tmp_path / "first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest"]
