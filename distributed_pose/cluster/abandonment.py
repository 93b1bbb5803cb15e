"""Ends what is left of a local Ray that the run could not leave in order."""

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import ray

# Killed processes are gone at once, unless they wait for a device or a disk.
_KILLED_TIMEOUT_S = 1.0


def abandon() -> None:
    """Lets this process end without contacting its cluster, which does not answer in time."""
    atexit.unregister(ray.shutdown)
    # Ray would soon end this process, too, if its own processes were killed before the exit.
    atexit.register(_kill_local_ray)


def _kill_local_ray() -> None:
    """Kills the processes of the local cluster that this process has started, if there is one."""
    # Its first processes have the name of the session in their command lines.
    session = re.compile(rf"\bsession_[^/]*_{os.getpid()}\b")
    children = {process: _command(process) for process in psutil.Process().children()}
    first = [process for process, command in children.items() if session.search(command)]
    raylets = [process for process in first if "/raylet " in children[process]]
    # The processes that those have started still write files, and have changed their names.
    others = [child for process in first for child in _children(process)]
    _kill([process for process in (*first, *others) if process not in raylets])
    remove_own_sessions()
    # Ray ends this process as soon as its raylet has ended.
    _kill(raylets)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, _KILLED_TIMEOUT_S)


def _children(process: psutil.Process) -> Sequence[psutil.Process]:
    with suppress(psutil.Error):
        return list(process.children(recursive=True))
    return ()


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def remove_own_sessions() -> None:
    """Removes the files of a local Ray whose start this process did not complete."""
    base = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"
    for session in base.glob(f"session_*_{os.getpid()}"):
        shutil.rmtree(session, ignore_errors=True)
