"""Only one run at a time may use a folder, on a disk and behind a URI."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import SetupError
from distributed_pose.files.storage import Folder
from distributed_pose.run import lock as run_lock
from distributed_pose.run.lock import RunLock

HOLD = """
import sys, time
from distributed_pose.run.lock import RunLock
from distributed_pose.files.storage import Folder
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


def test_a_second_run_is_refused_until_the_process_of_the_first_is_killed(
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
    """A local folder that is treated like one behind a URI."""

    @property
    def local_path(self) -> None:
        return None


@pytest.mark.parametrize(("age_s", "is_refused"), [(10, True), (600, False)])
def test_a_recent_heartbeat_in_a_folder_behind_a_uri_keeps_other_runs_out(
    tmp_path: Path, age_s: int, *, is_refused: bool
) -> None:
    folder = Elsewhere(tmp_path)
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    content: dict[str, Any] = {"host": "node7", "pid": 12, "at": at}
    folder.write(".lock", json.dumps(content))
    if is_refused:
        with pytest.raises(SetupError, match="process 12 on node7"):
            RunLock(folder).__enter__()
        return
    with RunLock(folder):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"at": 5}'])
def test_a_lock_without_a_readable_holder_does_not_keep_runs_out(
    tmp_path: Path, content: bytes
) -> None:
    folder = Elsewhere(tmp_path)
    folder.write(".lock", content)
    with RunLock(folder):
        pass
