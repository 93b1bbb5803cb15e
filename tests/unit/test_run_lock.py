"""One run at a time in a folder, on a disk and behind a URI."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import SetupError, run_lock
from distributed_pose.run_lock import RunLock
from distributed_pose.storage import Folder

HOLD = """
import sys, time
from distributed_pose.run_lock import RunLock
from distributed_pose.storage import Folder
with RunLock(Folder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 0.3)


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_the_first_ones_process_and_may_start_when_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(SetupError, match=f"another run .*process {process.pid} on"):
            RunLock(Folder(tmp_path)).__enter__()
    finally:
        process.kill()
        process.communicate()
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 10.0)
    with RunLock(Folder(tmp_path)):
        pass
    with RunLock(Folder(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


class Elsewhere(Folder):
    """A folder that is taken for one behind a URI."""

    @property
    def local_path(self) -> None:
        return None


@pytest.mark.parametrize(("age_s", "is_refused"), [(10, True), (600, False)])
def test_behind_a_uri_a_run_that_was_at_work_a_moment_ago_keeps_others_out(
    tmp_path: Path, age_s: int, *, is_refused: bool
) -> None:
    folder = Elsewhere(tmp_path)
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    told: dict[str, Any] = {"host": "node7", "pid": 12, "at": at}
    folder.write(".lock", json.dumps(told))
    if is_refused:
        with pytest.raises(SetupError, match="process 12 on node7"):
            RunLock(folder).__enter__()
        return
    with RunLock(folder):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"at": 5}'])
def test_a_lock_that_says_nothing_keeps_nobody_out(tmp_path: Path, content: bytes) -> None:
    folder = Elsewhere(tmp_path)
    folder.write(".lock", content)
    with RunLock(folder):
        pass
