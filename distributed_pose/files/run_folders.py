"""Creates the folders of runs that the user does not name, and the link to the latest one."""

import errno
import os
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from distributed_pose.files.local import writing


def new_run_folder(runs: Path) -> Path:
    """Returns a new folder, named after the current time; no other run gets the same folder.

    Raises:
        ExecutionError: if the folder cannot be created.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with writing(str(runs)):
        runs.mkdir(parents=True, exist_ok=True)
        names = chain([stamp], (f"{stamp}-{number}" for number in count(2)))
        return next(runs / name for name in names if _creates(runs / name))


def _creates(folder: Path) -> bool:
    """Creates a folder; returns False if it exists already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def point_latest_at(folder: Path) -> None:
    """Creates or changes the link `latest` beside a folder so that it points to the folder.

    Raises:
        ExecutionError: if the link cannot be created, for example where a folder has that name.
    """
    link = folder.parent / "latest"
    temporary = folder.parent / f".latest-{os.getpid()}"
    with writing(str(link)):
        folder.mkdir(parents=True, exist_ok=True)
        if link.exists() and not link.is_symlink():
            raise OSError(errno.EEXIST, "it is not a link")
        temporary.symlink_to(folder.name)
        try:
            temporary.replace(link)
        except OSError:
            temporary.unlink()
            raise
