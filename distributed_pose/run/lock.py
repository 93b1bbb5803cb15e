"""Locks an output folder, so that only one run at a time writes to it."""

import fcntl
import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, Self
from uuid import uuid4

from distributed_pose.errors import ExecutionError, PoseEvalError, SetupError
from distributed_pose.files.local import MAX_CARD_BYTES
from distributed_pose.files.storage import Folder

_NAME = ".lock"

# A process that was just killed has ended after this time.
_PATIENCE_S = 5.0

# Object stores have no locks, so a run writes a heartbeat there at the first interval. After the
# second interval without a heartbeat, the lock is no longer valid.
_BEAT_S = 20.0
_SILENT_S = 90.0


class RunLock:
    """Keeps other runs out of a folder within a `with` block.

    On a disk, the operating system holds the lock (`flock`) and releases it when the process ends,
    for whatever reason. Behind a URI, the lock is an object that the run rewrites every 20 s and
    that is valid for 90 s. Two runs that start there within the same second may not notice each
    other.

    Args:
        folder: output folder of the run; created if it does not exist.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        self._ended = Event()
        self._token = uuid4().hex

    def __enter__(self) -> Self:
        """Takes the lock.

        Raises:
            SetupError: if another run holds the lock.
            ExecutionError: if the folder cannot be written.
        """
        path = self._folder.local_path
        if path:
            self._lock(path / _NAME)
        else:
            self._check_silent()
            self._beat()
            Thread(target=self._keep_beating, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._descriptor is not None:
            os.close(self._descriptor)
        else:
            self._folder.delete(_NAME)

    def _lock(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise ExecutionError(f"cannot write {path}: {error.strerror}") from None
        deadline_at = monotonic() + _PATIENCE_S
        while not self._try_lock():
            if monotonic() > deadline_at:
                holder = _holder(os.pread(self._descriptor, MAX_CARD_BYTES, 0))
                os.close(self._descriptor)
                raise self._held_error(holder)
            sleep(0.1)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, self._text().encode(), 0)

    def _try_lock(self) -> bool:
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Some file systems of clusters have no locks, so the run goes on without one.
        except OSError:
            return True
        return True

    def _check_silent(self) -> None:
        if not self._folder.has(_NAME):
            return
        holder = _holder(self._folder.read(_NAME, MAX_CARD_BYTES))
        try:
            age = datetime.now(UTC) - datetime.fromisoformat(str(holder["at"]))
        except (KeyError, ValueError, TypeError):
            return
        if age < timedelta(seconds=_SILENT_S):
            raise self._held_error(holder)

    def _keep_beating(self) -> None:
        while not self._ended.wait(_BEAT_S):
            try:
                self._beat()
            # The run itself reports that its folder cannot be written.
            except PoseEvalError:
                continue

    def _beat(self) -> None:
        self._folder.write(_NAME, self._text(), durable=False)

    def _text(self) -> str:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        place = {"host": socket.gethostname(), "pid": os.getpid()}
        return json.dumps({**place, "at": now, "token": self._token}) + "\n"

    def _held_error(self, holder: Mapping[str, Any]) -> SetupError:
        who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'another host')}"
        return SetupError(
            f"another run is using {self._folder}: {who}",
            "wait for it, or choose another --output",
        )


def _holder(content: bytes) -> Mapping[str, Any]:
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}
