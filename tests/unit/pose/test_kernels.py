"""The disk cache of compiled kernels, as fresh processes use it or run without it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distributed_pose
from distributed_pose.cache.marks import MARK

DECODE = (
    "from distributed_pose.keypoints.reading import coco_body; "
    "from distributed_pose.pose.decode import Decoder; Decoder(coco_body()).warm_up()"
)
ONE_KERNEL = "from distributed_pose.pose.resample import in_tail; print(in_tail(18, 19, 5))"


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A path below a regular file, where nothing can be written, not even by root."""
    file = tmp_path / "file"
    file.touch()
    return file / "folder"


def run(statement: str, folder: Path, **variables: Path) -> str:
    """Returns what the statement prints in a fresh process that starts in a folder."""
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    environment["PYTHONPATH"] = str(folder)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-W", "error", "-c", statement]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def contents(folder: Path) -> dict[Path, int]:
    """Returns the last modification time of each file in nanoseconds, without marks of use."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path: path.stat().st_mtime_ns for path in files}


def copy_of_package(tmp_path: Path) -> Path:
    """Returns a folder that holds a copy of the package's sources."""
    package = Path(distributed_pose.__file__).parent
    sources = shutil.ignore_patterns("__pycache__", "*.pth")
    shutil.copytree(package, tmp_path / "copy" / package.name, ignore=sources)
    return tmp_path / "copy"


@pytest.mark.slow
def test_a_later_process_compiles_nothing(tmp_path: Path) -> None:
    checkout, cache = Path(distributed_pose.__file__).parents[1], tmp_path / "cache"
    run(DECODE, checkout, NUMBA_CACHE_DIR=cache)
    kept = contents(cache)
    assert kept
    run(DECODE, checkout, NUMBA_CACHE_DIR=cache)
    assert contents(cache) == kept


def test_kernels_are_cached_in_the_users_cache_folder(tmp_path: Path) -> None:
    checkout = Path(distributed_pose.__file__).parents[1]
    run(f"import os; os.environ.pop('NUMBA_CACHE_DIR', 0); {ONE_KERNEL}", checkout, HOME=tmp_path)
    # The folder's path depends on the operating system.
    assert any("kernels" in path.parts and path.suffix == ".nbc" for path in contents(tmp_path))


def test_a_change_of_any_source_file_selects_another_cache_folder(tmp_path: Path) -> None:
    copy, cache = copy_of_package(tmp_path), tmp_path / "cache"
    run(ONE_KERNEL, copy, NUMBA_CACHE_DIR=cache)
    with (copy / "distributed_pose" / "pose" / "targets.py").open("a") as source:
        source.write("\n")
    run(ONE_KERNEL, copy, NUMBA_CACHE_DIR=cache)
    assert len(list(cache.iterdir())) == 2


def test_kernels_run_where_no_folder_is_writable(tmp_path: Path, no_folder: Path) -> None:
    copy = copy_of_package(tmp_path)
    # After the configured folder, Numba's next choice is this folder beside the source.
    (copy / "distributed_pose" / "pose" / "__pycache__").touch()
    unwritable = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), no_folder)
    before = contents(tmp_path)
    assert run(ONE_KERNEL, copy, **unwritable) == "True"
    assert contents(tmp_path) == before


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_cache_entries_are_compiled_and_written_again(tmp_path: Path, suffix: str) -> None:
    checkout, cache = Path(distributed_pose.__file__).parents[1], tmp_path / "cache"
    run(ONE_KERNEL, checkout, NUMBA_CACHE_DIR=cache)
    for content in (b"", b"\x80garbage"):
        damaged = [path for path in contents(cache) if path.suffix == suffix]
        assert damaged
        for path in damaged:
            path.write_bytes(content)
        assert run(ONE_KERNEL, checkout, NUMBA_CACHE_DIR=cache) == "True"
        before = contents(cache)
        assert all(path.read_bytes() != content for path in before if path.suffix == suffix)
        assert run(ONE_KERNEL, checkout, NUMBA_CACHE_DIR=cache) == "True"
        assert contents(cache) == before


def test_kernels_run_where_the_cache_can_be_neither_read_nor_written(tmp_path: Path) -> None:
    checkout, cache = Path(distributed_pose.__file__).parents[1], tmp_path / "cache"
    run(ONE_KERNEL, checkout, NUMBA_CACHE_DIR=cache)
    for path in contents(cache):
        path.unlink()
        path.mkdir()
    assert run(ONE_KERNEL, checkout, NUMBA_CACHE_DIR=cache) == "True"
