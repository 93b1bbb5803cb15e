"""What the cache holds, for people and programs."""

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
        kind: what they are.
        entries: how many there are.
        size_bytes: sum of their files.
        last_use: of the most recently used one, ISO 8601, UTC.
        in_use: how many are used by a process now.
        old_entries: how many of them this version of the package never uses.
        old_bytes: sum of their files.
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
    """What the cache holds, and what was removed from it.

    Attributes:
        folder: of the cache; None if this user has none.
        limit_bytes: that it is kept within.
        size_bytes: of all entries.
        kinds: by name.
        removed_entries: how many were removed.
        removed_bytes: sum of their files.
    """

    folder: str | None
    limit_bytes: int
    size_bytes: int = 0
    kinds: list[KindContents] = field(default_factory=list)
    removed_entries: int = 0
    removed_bytes: int = 0


def existing_cache() -> Path | None:
    """Returns the user's cache folder, which is not made; None for a user without a home."""
    try:
        return Path(platformdirs.user_cache_dir("distributed_pose"))
    except RuntimeError:
        return None


def cache_contents(
    folder: Path | None, current: Mapping[str, str], removed: Iterable[CacheEntry] = ()
) -> CacheContents:
    """Returns what a cache folder holds.

    Args:
        folder: of the cache.
        current: what the names of entries that this version uses begin with, by kind.
        removed: entries that were removed just now.

    Raises:
        ConfigError: if the environment has no size as the limit.
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
