"""Returns stamps of files, which change when a file is written or replaced."""

import os
from typing import Any


def local_stamp(path: str) -> str:
    """Returns the stamp of a file on this machine, or "" if it cannot be accessed."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - twice as fast, and called once per image
    except (OSError, ValueError):
        return ""
    # `cp -p` sets the time of the content's last change; that of the inode cannot be set.
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def object_stamp(info: Any) -> str:
    """Returns the stamp of an object, or "" if its filesystem does not record times."""
    return f"{info.size} {info.mtime_ns}" if info.mtime_ns else ""
