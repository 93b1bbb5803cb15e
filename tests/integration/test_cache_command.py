"""The command `cache` shows the contents of the cache and frees it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distributed_pose.cache.entries import LIMIT_VARIABLE
from distributed_pose.cache.marks import in_use
from distributed_pose.files.local import sha256_hex
from distributed_pose.model.artifacts import Artifact, cache_key, keep
from tests.conftest import Run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the user's cache, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distributed_pose"


def add(source: str, size_bytes: int = 1000, age_s: int = 0) -> Path:
    content = bytes(size_bytes)
    folder = keep(cache_key({"source": source}), Artifact(content, {"sha256": sha256_hex(content)}))
    os.utime(folder / ".used", (1_700_000_000 - age_s,) * 2)
    return folder


def contents(run: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = run("cache", "--json", *arguments)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_it_shows_the_contents_and_changes_nothing(run: Run, cache: Path) -> None:
    entry = add("one")
    (cache / "models" / "0123456789abcdef").mkdir()
    before = sorted(cache.rglob("*"))
    code, out, _ = run("cache")
    assert code == 0
    assert f"cache: {cache}" in out
    (row,) = (line.split() for line in out.splitlines() if "models" in line)
    assert row[:7] == ["models", "2", "1.1", "kB", "0", "1,", "0"]
    assert f"1.1 kB of at most 5.0 GB ({LIMIT_VARIABLE})" in out
    assert sorted(cache.rglob("*")) == before
    assert (entry / ".used").stat().st_mtime == 1_700_000_000


def test_json_has_folder_limit_and_each_kind(run: Run, cache: Path) -> None:
    size_bytes = sum(path.stat().st_size for path in add("one").iterdir())
    found = contents(run)
    assert found == {
        "folder": str(cache),
        "limit_bytes": 5 * 10**9,
        "size_bytes": size_bytes,
        "kinds": [
            {
                "kind": "models",
                "entries": 1,
                "size_bytes": size_bytes,
                "last_use": "2023-11-14T22:13:20+00:00",
                "in_use": 0,
                "old_entries": 0,
                "old_bytes": 0,
            }
        ],
        "removed_entries": 0,
        "removed_bytes": 0,
    }


def test_prune_removes_entries_over_the_limit_and_all_removes_the_rest(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = add("old", age_s=60), add("new")
    assert contents(run, "--prune")["removed_entries"] == 0
    monkeypatch.setenv(LIMIT_VARIABLE, "2000")
    assert contents(run, "--prune")["removed_entries"] == 1
    assert (old.exists(), new.exists()) == (False, True)
    code, out, _ = run("cache", "--prune", "--all")
    assert code == 0
    assert "removed: 1 entries, 1.1 kB" in out
    assert list((cache / "models").iterdir()) == []


def test_entries_in_use_are_kept_and_shown(run: Run) -> None:
    entry = add("used")
    with in_use(entry):
        found = contents(run, "--prune", "--all")
    assert found["kinds"][0]["in_use"] == 1
    assert entry.exists()


@pytest.mark.parametrize("options", [(), ("--prune",), ("--prune", "--all")])
def test_a_missing_cache_is_an_empty_one(
    run: Run, cache: Path, options: tuple[str, ...], tmp_path: Path
) -> None:
    assert contents(run, *options)["kinds"] == []
    assert not cache.exists()
    (tmp_path / "cache").touch()
    assert contents(run, *options)["kinds"] == []


@pytest.mark.parametrize(
    ("options", "limit", "message"),
    [
        (["--all"], "5GB", "--all requires --prune"),
        ([], "plenty", f"{LIMIT_VARIABLE}=plenty is not a size (set it to a size such as 500MB"),
        (["--prune"], "-5GB", f"{LIMIT_VARIABLE}=-5GB is not a size"),
    ],
)
def test_wrong_usage_is_one_line_with_exit_code_2(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], limit: str, message: str
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    code, out, err = run("cache", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_an_entry_that_cannot_be_removed_is_one_line_with_exit_code_4(
    run: Run, cache: Path
) -> None:
    (cache / "models" / "entry" / ".used").mkdir(parents=True)
    code, _, err = run("cache", "--prune", "--all")
    assert code == 4
    assert err == f"error: cannot remove {cache}/models/entry: Is a directory\n"
