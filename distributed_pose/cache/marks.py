"""Marks the entries of the cache that are in use.

An entry is a folder `KIND/NAME` in the user's cache folder. Each process that uses the entry locks
its file `.used` (`flock`, shared) and sets the file's modification time to the time of use. To
remove an entry, a process locks that file exclusively, renames the folder and then deletes it, so
that no other process sees a part of the entry. An entry of an older version may be a file, or have
no such mark.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time

MARK = ".used"

# Where the file system has no locks, an entry counts as in use for this long after its last use.
_UNLOCKED_USE_S = 24 * 3600

# In practice no process removes a new folder this many times in a row.
_TRIES = 100

# Descriptors of the marks that this process has locked until it ends.
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Protects an entry from removal until this process ends, and records its use.

    Does nothing if the entry is missing or its mark cannot be written.
    """
    before = _held.get(folder)
    with suppress(OSError):
        _held[folder] = marked(folder)
        if before is not None:
            os.close(before)


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Protects an entry from removal until the context ends, and records its use.

    Does nothing if the entry is missing or its mark cannot be written.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = marked(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def marked(folder: Path) -> int:
    """Locks an entry against removal, records its use, and returns the descriptor of the lock.

    The lock lasts until the descriptor is closed.

    Raises:
        OSError: if there is no such entry, or its mark cannot be written.
    """
    while True:
        descriptor = opened(folder, create=True)
        with suppress(OSError):  # Not every file system has locks.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(OSError):
            os.utime(descriptor)
            if os.path.samestat(os.fstat(descriptor), (folder / MARK).stat()):
                return descriptor
        # The entry was removed while this process waited for the lock.
        os.close(descriptor)


def made(folder: Path) -> int:
    """Creates the folder of an entry if it is missing, and locks the entry as `marked` does.

    Returns the descriptor of the lock.

    Raises:
        OSError: if the folder cannot be created, or its mark cannot be written.
    """
    for _ in range(_TRIES):
        # Another process may remove the folder between any two steps.
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            return marked(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return marked(folder)


def locks_alone(descriptor: int, last_use_s: float) -> bool:
    """Locks the mark of an entry exclusively, and returns whether no other process uses the entry.

    If the file system has no locks, an entry counts as in use for a day after its last use.

    Args:
        descriptor: descriptor of the mark.
        last_use_s: Unix time of the entry's last use, in seconds.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time() - last_use_s > _UNLOCKED_USE_S
    return True


def opened(folder: Path, *, create: bool = False) -> int:
    """Opens the mark of an entry, and returns its descriptor, which can be locked.

    Args:
        folder: folder of the entry.
        create: whether a missing mark is created.

    Raises:
        OSError: if there is no mark, or it cannot be written.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    return os.open(folder / MARK, flags, 0o666)
