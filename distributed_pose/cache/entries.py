"""Creates entries of the cache, and removes the least recently used ones over the limit."""

import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from distributed_pose.cache.marks import MARK, hold, locks_alone, made, opened
from distributed_pose.errors import ConfigError, ExecutionError
from distributed_pose.files.local import PARTIAL_PREFIX, one_line, user_cache_folder, writing

LIMIT_VARIABLE = "DISTRIBUTED_POSE_CACHE_LIMIT"
DEFAULT_LIMIT = "5GB"

# Even an empty entry exceeds this limit.
NOTHING_BYTES = -1

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache.

    Attributes:
        kind: kind of the entry, such as `models`.
        path: path of the entry's folder.
        size_bytes: total size of the entry's files, in bytes.
        last_use_s: Unix time of the entry's last use, in seconds.
    """

    kind: str
    path: Path
    size_bytes: int
    last_use_s: float

    @property
    def is_in_use(self) -> bool:
        """Whether a process is using the entry now."""
        try:
            descriptor = opened(self.path)
        except OSError:
            return False
        try:
            return not locks_alone(descriptor, self.last_use_s)
        finally:
            os.close(descriptor)


def open_entry(folder: Path) -> None:
    """Creates the folder of an entry if it is missing, and holds the entry.

    Makes room in the cache if the entry is new. If the folder cannot be created, no error is
    raised; a caller that writes into the folder then gets the error.
    """
    try:
        folder.mkdir(parents=True)
    except OSError:
        hold(folder)
    else:
        hold(folder)
        make_room()


@contextmanager
def new_entry(folder: Path) -> Iterator[None]:
    """Creates the folder of an entry, and protects it from removal until the context ends.

    Makes room in the cache at the end of the context, unless the context ends with an error.

    Raises:
        ExecutionError: if the folder cannot be created.
    """
    with writing(str(folder)):
        descriptor = made(folder)
    try:
        yield
        make_room()
    finally:
        os.close(descriptor)


def make_room() -> None:
    """Removes the least recently used entries until the cache is within its limit.

    Callers call it after they add an entry. Entries in use stay. An entry that cannot be removed or
    a limit that is not a size is logged and raises nothing.
    """
    try:
        prune(entries_of(user_cache_folder()), limit_bytes())
    except (ConfigError, ExecutionError) as error:
        _LOG.warning("the cache is not kept within its limit: %s", error)


def limit_bytes() -> int:
    """Returns the limit of the cache's size in bytes, from the environment or the default.

    Raises:
        ConfigError: if the value in the environment is not a size.
    """
    # Pydantic takes a tenth of a second to import, and most processes never need the limit.
    from pydantic import ByteSize, TypeAdapter, ValidationError

    text = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    # Pydantic ignores any text after the number and its unit.
    number_and_unit = re.fullmatch(r"[\d.]+ ?[A-Za-z]*", text, re.ASCII)
    try:
        return int(TypeAdapter(ByteSize).validate_python(number_and_unit and text))
    except (ValidationError, OverflowError):
        raise ConfigError(
            f"{LIMIT_VARIABLE}={text} is not a size", "set it to a size such as 500MB or 10GB"
        ) from None


def entries_of(folder: Path) -> list[CacheEntry]:
    """Returns the entries in a cache folder; empty if it is missing or cannot be read."""
    return [
        CacheEntry(kind.name, path, *_measured(path))
        for kind in _children(folder)
        if kind.is_dir()
        for path in _children(kind)
    ]


def prune(entries: Iterable[CacheEntry], most_bytes: int) -> list[CacheEntry]:
    """Removes the least recently used entries until the rest is small enough.

    Returns the removed entries.

    Args:
        entries: entries of the cache. Entries in use stay.
        most_bytes: largest total size of the entries that stay, in bytes.

    Raises:
        ExecutionError: if an entry cannot be removed. The message names the first such entry; the
            others are removed before the error is raised.
    """
    oldest_first = sorted(entries, key=lambda entry: entry.last_use_s)
    left_bytes = sum(entry.size_bytes for entry in oldest_first)
    removed, errors = [], []
    for entry in oldest_first:
        if left_bytes <= most_bytes:
            break
        try:
            is_gone = _removes(entry)
        except ExecutionError as error:
            errors.append(error)
            continue
        if is_gone:
            left_bytes -= entry.size_bytes
            removed.append(entry)
    if errors:
        raise errors[0]
    return removed


def _removes(entry: CacheEntry) -> bool:
    """Removes an entry unless a process is using it, and returns whether it was removed.

    Raises:
        ExecutionError: if the entry cannot be removed.
    """
    try:
        if entry.path.is_symlink() or not entry.path.is_dir():
            entry.path.unlink(missing_ok=True)
            return True
        return _removes_folder(entry)
    except FileNotFoundError:
        # Another process has removed the entry at the same time.
        return True
    except OSError as error:
        raise ExecutionError(f"cannot remove {entry.path}: {one_line(error)}") from None


def _removes_folder(entry: CacheEntry) -> bool:
    descriptor = opened(entry.path, create=True)
    try:
        if not locks_alone(descriptor, entry.last_use_s):
            return False
        aside = entry.path.with_name(f"{PARTIAL_PREFIX}{token_hex(8)}")
        entry.path.rename(aside)
    finally:
        os.close(descriptor)
    shutil.rmtree(aside)
    return True


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _measured(path: Path) -> tuple[int, float]:
    """Returns the size of an entry in bytes, and the Unix time of its last use."""
    files = [path, *(Path(base, name) for base, _, names in os.walk(path) for name in names)]
    size_bytes, changed_s = 0, [0.0]
    for file in files:
        with suppress(OSError):  # It may be removed meanwhile.
            status = file.lstat()
            changed_s.append(status.st_mtime)
            size_bytes += status.st_size if file != path or not path.is_dir() else 0
    with suppress(OSError):
        return size_bytes, (path / MARK).lstat().st_mtime
    return size_bytes, max(changed_s)
