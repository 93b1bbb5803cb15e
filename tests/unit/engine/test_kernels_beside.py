"""Compilation of the decoder's kernels beside the start of a run."""

from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from distributed_pose.engine.kernels_beside import kernels_compiled_beside
from distributed_pose.pose.sources import completion_mark, kernels_folder

_TIMEOUT_S = 240.0


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))


@pytest.fixture
def before() -> set[psutil.Process]:
    """The processes that this one has started before the test."""
    return {*psutil.Process().children()}


def test_its_processes_end_with_the_block(before: set[psutil.Process]) -> None:
    with kernels_compiled_beside():
        started = {*psutil.Process().children()} - before
        assert started
    assert not any(process.is_running() for process in started)


def test_no_process_starts_if_all_kernels_are_cached(before: set[psutil.Process]) -> None:
    folder = kernels_folder()
    folder.mkdir(parents=True)
    completion_mark(folder).touch()
    with kernels_compiled_beside():
        assert {*psutil.Process().children()} <= before


@pytest.mark.slow
def test_it_compiles_all_kernels() -> None:
    mark, end_at = completion_mark(kernels_folder()), monotonic() + _TIMEOUT_S
    with kernels_compiled_beside():
        while not mark.exists() and monotonic() < end_at:
            sleep(0.1)
    assert mark.exists()
    names = {path.name.split("-")[0] for path in mark.parent.rglob("*.nbi")}
    assert {"peaks.find_peaks", "limbs.find_limbs", "assemble.assemble"} <= names
