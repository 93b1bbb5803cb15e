"""Makes the first calls of the decoder's kernels, which compile them."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

# A kernel takes some ten seconds of processor time. A process that takes longer than this to
# compile one may have been stopped, so others compile the kernel as well.
_PATIENCE_S = 60.0
_POLL_S = 0.05


def share_first_calls(calls: Mapping[str, Callable[[], object]], mark: Path) -> None:
    """Calls each function once; processes that do so at the same time begin with different ones.

    The first call of a kernel compiles it, or loads it if another process has compiled it. A kernel
    that another process is compiling is therefore called last.

    Args:
        calls: functions that call the kernels, by name.
        mark: file in the cache folder of the kernels that exists once they are all compiled.
    """
    pending = dict(calls)
    for patience_s in (0.0, _PATIENCE_S):
        for name in [*pending]:
            with _locked(mark.with_name(f"{name}.lock"), patience_s) as is_free:
                if is_free or patience_s:
                    pending.pop(name)()
    with suppress(OSError):
        if not mark.exists():
            mark.touch()


@contextmanager
def _locked(path: Path, patience_s: float) -> Iterator[bool]:
    """Locks a file if it becomes free in time, and yields whether no other process has locked it.

    A file counts as free where it cannot be locked at all.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError:
        yield True
        return
    try:
        deadline_at = monotonic() + patience_s
        while (is_taken := _is_taken(descriptor)) and monotonic() < deadline_at:
            sleep(_POLL_S)
        yield not is_taken
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    """Locks a file if it is free, and returns whether another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # Not every file system has locks.
        return False
    return False
