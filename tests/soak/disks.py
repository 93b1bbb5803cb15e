"""Disks and object stores without room."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from threading import Event, Thread

import ray

from distributed_pose.errors import ExecutionError
from distributed_pose.evaluation import evaluate
from distributed_pose.report.run_report import RunReport
from tests.soak.runs import Outcome, Part, Scenery, in_time, outcome_of, until

DISK, STORE = "disk full", "object store full"

# Images in a second, so that the object store can be filled several times in a run.
_SLOW_RATE = 5.0

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


def storage_runs(there: Scenery, seed: int, plan: Mapping[str, Part]) -> Iterator[Outcome]:
    """Yields runs until disks and the object store that they share were full so often."""
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=_STORE_BYTES
    )
    start = time.monotonic()
    _evaluate(there, there.folder / "usual", "ray", _SLOW_RATE)
    usual_s = time.monotonic() - start
    runs = {DISK: _run_on_disk, STORE: _run_beside_a_hoarder}
    for kind, part in plan.items():
        yield from until(
            kind,
            part,
            partial(
                lambda kind, number, left: runs[kind](
                    number, there, Random(f"{seed} {kind} {number}"), left, usual_s
                ),
                kind,
            ),
        )
    ray.shutdown()


def _run_on_disk(number: int, there: Scenery, random: Random, left: int, usual_s: float) -> Outcome:
    """Returns the outcome of a run in sessions that fill their disk, and one with more room."""
    needed = sum(path.stat().st_size for path in there.undisturbed.rglob("*.*"))
    sizes = random.sample(range(_LEAST_BYTES, needed, _BLOCK_BYTES), min(left, _FAULTS_A_RUN))
    happened = 0
    end: RunReport | BaseException | None = None
    start = time.monotonic()
    with _disk(there.folder / f"disk-{number}") as disk:
        for size in (*map(str, sorted(sizes)), _PLENTY):
            _mount(disk, f"remount,size={size}")
            engine = "ray" if random.random() < _ON_RAY else "inline"
            end = in_time(partial(_evaluate, there, disk / "run", engine), 10 * usual_s)
            is_full = isinstance(end, ExecutionError) and _FULL in str(end)
            happened += is_full
            if not is_full:
                break
        seconds = time.monotonic() - start
        return outcome_of(DISK, number, there, disk / "run", end, happened, seconds)


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


def _run_beside_a_hoarder(
    number: int, there: Scenery, random: Random, left: int, usual_s: float
) -> Outcome:
    """Returns the outcome of a run whose object store is filled and freed again and again."""
    del random, left  # It is filled as often as there is time.
    filled: list[float] = []
    ended = Event()
    hoarder = Thread(target=_hoard, args=(filled, ended), daemon=True)
    output = there.folder / f"store-{number}"
    hoarder.start()
    start = time.monotonic()
    end = in_time(partial(_evaluate, there, output, "ray", _SLOW_RATE), 10 * usual_s)
    seconds = time.monotonic() - start
    ended.set()
    hoarder.join()
    return outcome_of(STORE, number, there, output, end, len(filled), seconds)


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
