"""Marks by which an entry of the cache is known to be in use.

An entry is a folder `KIND/NAME` in the user's cache folder. Its file `.used` is locked (`flock`,
shared) by each process that uses the entry, and was modified at the last use. To remove an entry,
a process locks that file alone, renames the folder and deletes it then, so that no other process
sees a part of it. What an older version left there may be a file, or have no such mark.
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

# More often in a row no process removes what another makes.
_TRIES = 100

# Descriptors of the marks that this process has locked until it ends.
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Keeps an entry from being removed until this process ends, and notes that it is used.

    An entry that is not there is none to hold, and a mark that cannot be written is left out.
    """
    before = _held.get(folder)
    with suppress(OSError):
        _held[folder] = marked(folder)
        if before is not None:
            os.close(before)


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Does what `hold` does, as long as it is entered."""
    descriptor = None
    with suppress(OSError):
        descriptor = marked(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def marked(folder: Path) -> int:
    """Returns a descriptor by which an entry is locked against removal; notes its use.

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
        # The entry was removed while the lock was waited for.
        os.close(descriptor)


def made(folder: Path) -> int:
    """Does what `marked` does, and makes the folder where it is missing.

    Raises:
        OSError: if it cannot be made, or its mark cannot be written.
    """
    for _ in range(_TRIES):
        # Another process may remove it between any two steps.
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            return marked(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return marked(folder)


def locks_alone(descriptor: int, last_use_s: float) -> bool:
    """Locks the mark of an entry, and returns whether no other process uses the entry."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time() - last_use_s > _UNLOCKED_USE_S
    return True


def opened(folder: Path, *, create: bool = False) -> int:
    """Returns a descriptor of the mark of an entry, by which it can be locked.

    Raises:
        OSError: if there is no mark, or it cannot be written.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    return os.open(folder / MARK, flags, 0o666)
