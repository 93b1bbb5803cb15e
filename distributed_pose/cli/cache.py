"""The command `cache`, which shows the contents of the user's cache and frees it."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich import box
from rich.filesize import decimal
from rich.table import Table

from distributed_pose.cache.contents import CacheContents, cache_contents, existing_cache
from distributed_pose.cache.entries import (
    LIMIT_VARIABLE,
    NOTHING_BYTES,
    entries_of,
    limit_bytes,
)
from distributed_pose.cache.entries import prune as prune_entries
from distributed_pose.cli.terminal import Terminal, print_line, print_text
from distributed_pose.errors import ConfigError


def cache(
    *,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove the least recently used entries over the limit."),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="With --prune: remove all entries that are not in use.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the contents alone, as JSON.")
    ] = False,
) -> None:
    """Show or free the cache of compiled kernels, models, engines and demo images.

    The limit of its size is DISTRIBUTED_POSE_CACHE_LIMIT, 5GB by default. Runs remove the least
    recently used entries over the limit.
    """
    if everything and not prune:
        raise ConfigError("--all requires --prune", "give both to remove all entries")
    limit, folder = limit_bytes(), existing_cache()
    removed = []
    if prune and folder:
        removed = prune_entries(entries_of(folder), NOTHING_BYTES if everything else limit)
    contents = cache_contents(folder, _current_names(), removed)
    if as_json:
        print_text(f"{json.dumps(asdict(contents), indent=2)}\n")
        return
    _show(contents, pruned=prune)


def _current_names() -> Mapping[str, str]:
    """Returns the prefixes of the names of entries that this version uses, by kind."""
    from distributed_pose.model.artifacts import CACHE_VERSION
    from distributed_pose.pose.sources import sources_digest

    return {
        "demo": importlib.import_module("distributed_pose.demo.default").FOLDER_PREFIX,
        "kernels": sources_digest(),
        "models": CACHE_VERSION,
    }


def _show(contents: CacheContents, *, pruned: bool) -> None:
    folder = contents.folder or "none, since this user has no home (set XDG_CACHE_HOME to a folder)"
    print_line(f"cache: {folder}")
    if contents.kinds:
        Terminal().print(_table(contents))
    size, limit = decimal(contents.size_bytes), decimal(contents.limit_bytes)
    print_line(f"{size} of at most {limit} ({LIMIT_VARIABLE})")
    if pruned:
        freed = decimal(contents.removed_bytes)
        print_line(f"removed: {contents.removed_entries} entries, {freed}")


def _table(contents: CacheContents) -> Table:
    table = Table("kind", box=box.SIMPLE_HEAD)
    for column in ("entries", "size", "in use", "of other versions", "last use (UTC)"):
        table.add_column(column, justify="right", no_wrap=True)
    for kind in contents.kinds:
        table.add_row(
            kind.kind,
            str(kind.entries),
            decimal(kind.size_bytes),
            str(kind.in_use),
            f"{kind.old_entries}, {decimal(kind.old_bytes)}" if kind.old_entries else "0",
            f"{datetime.fromisoformat(kind.last_use):%Y-%m-%d %H:%M}",
        )
    return table
