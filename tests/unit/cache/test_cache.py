"""The cache stays within its limit, and entries in use are never removed."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from errno import ENOLCK
from pathlib import Path
from time import monotonic, sleep, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose import ConfigError, ExecutionError
from distributed_pose.cache.contents import cache_contents
from distributed_pose.cache.entries import (
    LIMIT_VARIABLE,
    NOTHING_BYTES,
    CacheEntry,
    entries_of,
    limit_bytes,
    make_room,
    open_entry,
    prune,
)
from distributed_pose.cache.marks import hold, in_use
from distributed_pose.demo.default import prepare_demo
from distributed_pose.files.local import sha256_hex, user_cache_folder
from distributed_pose.model.artifacts import Artifact, cache_key, keep, load_cached

# Runs a statement, prints a line, and waits until its stdin is closed.
STAYS = "import sys; {}; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return user_cache_folder()


def add(folder: Path, size_bytes: int, age_s: float) -> Path:
    """Returns the folder of a new entry whose last use was a number of seconds ago."""
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(bytes(size_bytes))
    (folder / ".used").touch()
    os.utime(folder / ".used", (time() - age_s,) * 2)
    return folder


def names(cache: Path) -> set[str]:
    return {entry.path.name for entry in entries_of(cache)}


def artifact(size_bytes: int) -> Artifact:
    content = bytes(size_bytes)
    return Artifact(content, {"sha256": sha256_hex(content)})


@contextmanager
def another_process(statement: str) -> Iterator[None]:
    command = [sys.executable, "-c", STAYS.format(statement)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.stdin.close()


def test_the_least_recently_used_entries_are_removed_until_the_rest_fits(cache: Path) -> None:
    for number, age_s in enumerate((30, 10, 40, 20)):
        add(cache / "models" / f"entry-{number}", 100, age_s)
    removed = prune(entries_of(cache), 250)
    assert [entry.path.name for entry in removed] == ["entry-2", "entry-0"]
    assert names(cache) == {"entry-1", "entry-3"}
    assert prune(entries_of(cache), 200) == []


@given(sizes=st.lists(st.integers(0, 50), max_size=6), most=st.integers(-1, 200))
def test_pruning_removes_no_more_than_it_must(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    for number, size in enumerate(sizes):
        add(cache / "kernels" / str(number), size, 1000 - number)
    removed = prune(entries_of(cache), most)
    assert [entry.path.name for entry in removed] == list(map(str, range(len(removed))))
    left = sum(sizes[len(removed) :])
    assert left <= most or len(removed) == len(sizes)
    if removed:
        assert left + sizes[len(removed) - 1] > most


def test_a_use_makes_an_entry_the_most_recent_one(cache: Path) -> None:
    old, _ = add(cache / "models" / "old", 10, 300), add(cache / "models" / "new", 10, 200)
    with in_use(old):
        pass
    prune(entries_of(cache), 10)
    assert names(cache) == {"old"}


@pytest.mark.parametrize("call", ["marks.hold", "entries.open_entry"])
def test_an_entry_that_another_process_uses_stays_until_that_process_ends(
    cache: Path, call: str
) -> None:
    entry = add(cache / "demo" / "used", 100, 300)
    statement = (
        "from distributed_pose.cache import entries, marks; from pathlib import Path; "
        f"{call}(Path({str(entry)!r}))"
    )
    with another_process(statement):
        assert [found.is_in_use for found in entries_of(cache)] == [True]
        assert prune(entries_of(cache), NOTHING_BYTES) == []
        assert (entry / "content").exists()
    assert [found.is_in_use for found in entries_of(cache)] == [False]
    assert len(prune(entries_of(cache), NOTHING_BYTES)) == 1
    assert not entry.exists()


def test_the_demo_of_a_running_evaluation_is_not_removed(cache: Path) -> None:
    statement = "from distributed_pose.demo.default import prepare_demo; prepare_demo(2)"
    with another_process(statement):
        assert prune(entries_of(cache), NOTHING_BYTES) == []
        assert len(list(Path(prepare_demo(2).images).iterdir())) == 2


def test_readers_see_whole_artifacts_or_none_while_others_prune(cache: Path) -> None:
    key, wanted = cache_key({"source": "x"}), artifact(1000)
    end_at = monotonic() + 2

    def load_and_keep(_: int) -> list[Artifact | None]:
        seen = []
        while monotonic() < end_at:
            seen.append(load_cached(key))
            keep(key, wanted)
            sleep(0.005)
        return seen

    with ThreadPoolExecutor(3) as pool:
        readers = pool.map(load_and_keep, range(3))
        while monotonic() < end_at:
            prune(entries_of(cache), NOTHING_BYTES)
        seen = [found for reader in readers for found in reader]
    assert all(found in (None, wanted) for found in seen)
    assert None in seen
    assert wanted in seen


def test_a_new_entry_makes_room_for_itself(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "3kB")
    keys = [cache_key({"number": number}) for number in range(5)]
    for number, key in enumerate(keys):
        folder = keep(key, artifact(1000))
        os.utime(folder / ".used", (number, number))
    assert names(cache) == {*keys[3:]}
    (cache / "models" / keys[4] / "artifact").read_bytes()
    keep("larger-than-the-limit", artifact(4000))
    assert names(cache) == {"larger-than-the-limit"}
    open_entry(cache / "kernels" / "new")
    assert names(cache) == {"new"}


def test_an_invalid_limit_removes_nothing_and_is_logged(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = add(cache / "models" / "entry", 10, 10)
    monkeypatch.setenv(LIMIT_VARIABLE, "plenty")
    make_room()
    assert entry.exists()
    assert f"{LIMIT_VARIABLE}=plenty is not a size" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 5 * 10**9), ("0", 0), ("500MB", 5 * 10**8), ("1.5 GiB", 3 * 2**29), ("12345", 12345)],
)
def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    assert limit_bytes() == expected


@pytest.mark.parametrize("text", ["-1", "5 apples", "GB", "nan", "inf", "1e400GB", "1,5GB"])
def test_a_limit_that_is_not_a_size_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(ConfigError, match=LIMIT_VARIABLE):
        limit_bytes()


def test_without_locks_an_entry_stays_for_a_day_after_its_last_use(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    add(cache / "models" / "yesterdays", 10, 25 * 3600)
    hold(add(cache / "models" / "todays", 10, 30 * 3600))
    prune(entries_of(cache), NOTHING_BYTES)
    assert names(cache) == {"todays"}


def link(cache: Path) -> Path:
    add(cache.parent / "elsewhere", 10, 10)
    (cache / "models").mkdir()
    (cache / "models" / "link").symlink_to(cache.parent / "elsewhere")
    return cache.parent / "elsewhere" / "content"


def file_of_an_older_version(cache: Path) -> Path:
    (cache / "tensorrt").mkdir()
    (cache / "tensorrt" / "graph.engine").write_bytes(b"engine")
    return cache


def remains_of_a_killed_pruner(cache: Path) -> Path:
    return add(cache / "models" / ".partial-0123456789abcdef", 10, 10).parents[1]


@pytest.mark.parametrize("made", [link, file_of_an_older_version, remains_of_a_killed_pruner])
def test_foreign_files_in_the_cache_are_removed_but_not_the_targets_of_links(
    cache: Path, made: Callable[[Path], Path]
) -> None:
    stays = made(cache)
    assert len(prune(entries_of(cache), NOTHING_BYTES)) == 1
    assert names(cache) == set()
    assert stays.exists()


def test_an_entry_that_cannot_be_removed_is_named_and_does_not_protect_the_others(
    cache: Path,
) -> None:
    (cache / "models" / "entry" / ".used").mkdir(parents=True)
    os.utime(cache / "models" / "entry" / ".used", (0, 0))
    add(cache / "models" / "newer", 10, 10)
    with pytest.raises(ExecutionError, match=r"cannot remove .*models/entry: Is a directory"):
        prune(entries_of(cache), NOTHING_BYTES)
    assert names(cache) == {"entry"}


def test_an_entry_that_another_process_has_just_removed_counts_as_removed(cache: Path) -> None:
    entry = CacheEntry("models", cache / "models" / "gone", 10, 0.0)
    assert prune([entry], 0) == [entry]


def test_entries_of_other_versions_are_counted_separately(cache: Path) -> None:
    for place in ("models/v1-a", "models/v2-b", "models/v2-c", "kernels/abc", "plans/x"):
        add(cache / place, 10, 10)
    contents = cache_contents(cache, {"models": "v2-", "kernels": "abc"})
    found = {kind.kind: (kind.entries, kind.old_entries) for kind in contents.kinds}
    assert found == {"kernels": (1, 0), "models": (3, 1), "plans": (1, 1)}
    assert contents.size_bytes == 50
