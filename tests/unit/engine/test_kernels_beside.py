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


@pytest.mark.parametrize("several_scales", [False, True])
def test_its_processes_end_with_the_block(
    before: set[psutil.Process], *, several_scales: bool
) -> None:
    with kernels_compiled_beside(several_scales=several_scales):
        started = {*psutil.Process().children()} - before
        assert started
    assert not any(process.is_running() for process in started)


def test_no_process_starts_if_all_kernels_are_cached(before: set[psutil.Process]) -> None:
    folder = kernels_folder()
    folder.mkdir(parents=True)
    completion_mark(folder).touch()
    with kernels_compiled_beside(several_scales=False):
        assert {*psutil.Process().children()} <= before
    with kernels_compiled_beside(several_scales=True):
        assert {*psutil.Process().children()} - before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("several_scales", "kernels"),
    [
        (False, {"peaks.find_peaks", "limbs.find_limbs", "assemble.assemble"}),
        (True, {"mean_peaks.find_mean_peaks", "mean_limbs.find_mean_limbs", "assemble.assemble"}),
    ],
)
def test_it_compiles_all_kernels(kernels: set[str], *, several_scales: bool) -> None:
    mark = completion_mark(kernels_folder(), several_scales=several_scales)
    end_at = monotonic() + _TIMEOUT_S
    with kernels_compiled_beside(several_scales=several_scales):
        while not mark.exists() and monotonic() < end_at:
            sleep(0.1)
    assert mark.exists()
    assert kernels <= {path.name.split("-")[0] for path in mark.parent.rglob("*.nbi")}
