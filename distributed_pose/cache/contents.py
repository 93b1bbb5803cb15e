"""Sums up the contents of the cache, for people and programs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from distributed_pose.cache.entries import CacheEntry, entries_of, limit_bytes


@dataclass(frozen=True, kw_only=True)
class KindContents:
    """The entries of one kind.

    Attributes:
        kind: kind of the entries, such as `models`.
        entries: number of entries.
        size_bytes: total size of the entries' files, in bytes.
        last_use: time of the last use of any of the entries, ISO 8601, UTC.
        in_use: number of entries that a process is using now.
        old_entries: number of entries that this version of the package never uses.
        old_bytes: total size of the files of such old entries, in bytes.
    """

    kind: str
    entries: int
    size_bytes: int
    last_use: str
    in_use: int
    old_entries: int
    old_bytes: int


@dataclass(frozen=True, kw_only=True)
class CacheContents:
    """The contents of the cache, and the entries that were removed from it.

    Attributes:
        folder: folder of the cache; None if this user has none.
        limit_bytes: limit of the cache's size, in bytes.
        size_bytes: total size of all entries, in bytes.
        kinds: entries of each kind, sorted by the name of the kind.
        removed_entries: number of entries that were removed.
        removed_bytes: total size of the removed entries' files, in bytes.
    """

    folder: str | None
    limit_bytes: int
    size_bytes: int = 0
    kinds: list[KindContents] = field(default_factory=list)
    removed_entries: int = 0
    removed_bytes: int = 0


def existing_cache() -> Path | None:
    """Returns the user's cache folder without creating it; None for a user without a home."""
    try:
        return Path(platformdirs.user_cache_dir("distributed_pose"))
    except RuntimeError:
        return None


def cache_contents(
    folder: Path | None, current: Mapping[str, str], removed: Iterable[CacheEntry] = ()
) -> CacheContents:
    """Returns a summary of a cache folder.

    Args:
        folder: folder of the cache; None if there is none.
        current: prefixes of the names of entries that this version uses, by kind.
        removed: entries that were just removed.

    Raises:
        ConfigError: if the limit in the environment is not a size.
    """
    by_kind: dict[str, list[CacheEntry]] = {}
    for entry in entries_of(folder) if folder else []:
        by_kind.setdefault(entry.kind, []).append(entry)
    gone = list(removed)
    kinds = [_kind_contents(kind, by_kind[kind], current.get(kind)) for kind in sorted(by_kind)]
    return CacheContents(
        folder=str(folder) if folder else None,
        limit_bytes=limit_bytes(),
        size_bytes=sum(kind.size_bytes for kind in kinds),
        kinds=kinds,
        removed_entries=len(gone),
        removed_bytes=sum(entry.size_bytes for entry in gone),
    )


def _kind_contents(kind: str, entries: list[CacheEntry], current: str | None) -> KindContents:
    old = [e for e in entries if current is None or not e.path.name.startswith(current)]
    last_use = datetime.fromtimestamp(max(entry.last_use_s for entry in entries), UTC)
    return KindContents(
        kind=kind,
        entries=len(entries),
        size_bytes=sum(entry.size_bytes for entry in entries),
        last_use=last_use.isoformat(timespec="seconds"),
        in_use=sum(entry.is_in_use for entry in entries),
        old_entries=len(old),
        old_bytes=sum(entry.size_bytes for entry in old),
    )
