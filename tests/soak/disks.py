"""Disks and object stores without room."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from threading import Event, Thread

import ray

from distributed_pose.errors import ExecutionError
from distributed_pose.evaluation import evaluate
from distributed_pose.report.run_report import RunReport
from tests.soak.runs import Outcome, Scenery, in_time, outcome_of

_FULL = "No space left on device"
_PLENTY = "64m"
_LEAST_BYTES = 32 * 2**10
_BLOCK_BYTES = 4096
_FAULTS_A_RUN = 8

# Share of the sessions that start processes, which takes longer than all else.
_ON_RAY = 0.15

_STORE_BYTES = 100 * 2**20
_HOARDED_BYTES = 10 * 2**20
_USED = re.compile(r"([\d.]+)% full")
_FULL_PERCENT = 90.0


def disk_runs(kind: str, there: Scenery, seed: int, faults: int) -> Iterator[Outcome]:
    """Yields runs until their disks were full so often; each goes on when there is room again."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    start = time.monotonic()
    _evaluate(there, there.folder / "usual", "ray")
    usual_s = time.monotonic() - start
    needed = sum(path.stat().st_size for path in there.undisturbed.rglob("*.*"))
    left, number = faults, 0
    while left > 0:
        random = Random(f"{seed} {kind} {number}")
        sizes = random.sample(range(_LEAST_BYTES, needed, _BLOCK_BYTES), min(left, _FAULTS_A_RUN))
        outcome = _run_on_disk(kind, number, there, sorted(sizes), usual_s, random)
        yield outcome
        left -= max(1, outcome.faults)
        number += 1
    ray.shutdown()


def _run_on_disk(
    kind: str, number: int, there: Scenery, sizes: list[int], usual_s: float, random: Random
) -> Outcome:
    """Returns the outcome of a run in sessions with so much room on its disk, and then plenty."""
    happened = 0
    end: RunReport | BaseException | None = None
    start = time.monotonic()
    with _disk(there.folder / f"disk-{number}") as disk:
        for size in (*map(str, sizes), _PLENTY):
            _mount(disk, f"remount,size={size}")
            engine = "ray" if random.random() < _ON_RAY else "inline"
            end = in_time(partial(_evaluate, there, disk / "run", engine), 10 * usual_s)
            is_full = isinstance(end, ExecutionError) and _FULL in str(end)
            happened += is_full
            if not is_full:
                break
        seconds = time.monotonic() - start
        return outcome_of(kind, number, there, disk / "run", end, happened, seconds)


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    _mount(folder, f"size={_LEAST_BYTES}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def store_runs(kind: str, there: Scenery, seed: int, faults: int) -> Iterator[Outcome]:
    """Yields runs until the object store that they share was full of others' data so often."""
    del seed  # It is filled again and again, as fast as it can be.
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=_STORE_BYTES
    )
    start = time.monotonic()
    _evaluate(there, there.folder / "usual", "ray", rate=5.0)
    usual_s = time.monotonic() - start
    left, number = faults, 0
    while left > 0:
        outcome = _run_beside_a_hoarder(kind, number, there, usual_s)
        yield outcome
        left -= max(1, outcome.faults)
        number += 1
        if outcome.hangs:
            return
    ray.shutdown()


def _run_beside_a_hoarder(kind: str, number: int, there: Scenery, usual_s: float) -> Outcome:
    filled: list[float] = []
    ended = Event()
    hoarder = Thread(target=_hoard, args=(filled, ended), daemon=True)
    output = there.folder / f"store-{number}"
    hoarder.start()
    start = time.monotonic()
    end = in_time(partial(_evaluate, there, output, "ray", rate=5.0), 10 * usual_s)
    seconds = time.monotonic() - start
    ended.set()
    hoarder.join()
    return outcome_of(kind, number, there, output, end, len(filled), seconds)


def _hoard(filled: list[float], ended: Event) -> None:
    """Fills the object store and frees it again, and enters how full it was each time."""
    while not ended.is_set():
        kept = [ray.put(bytes(_HOARDED_BYTES)) for _ in range(2 * _STORE_BYTES // _HOARDED_BYTES)]
        percent = _percent_used()
        if percent >= _FULL_PERCENT and not ended.is_set():
            filled.append(percent)
        ended.wait(0.5)
        del kept


def _percent_used() -> float:
    from ray._private.internal_api import memory_summary

    summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    found = _USED.search(summary)
    return float(found[1]) if found else 0.0


def _evaluate(there: Scenery, output: Path, engine: str, rate: float = 200.0) -> RunReport:
    config = there.dataset.config(
        engine=engine, backend="simulated", simulated={"rate": rate}, batch_size=2, reducers=2
    )
    return evaluate(config, output)
