"""Faults of all kinds from a seed, and a table of what became of the runs that they met."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from tests.soak import actors, disks, drivers, nodes
from tests.soak.runs import Outcome, Part, Scenery, scenery

# Yields the outcomes of runs: scenery, seed, parts by kind.
Runs = Callable[[Scenery, int, Mapping[str, Part]], Iterator[Outcome]]

_REPOSITORY = Path(__file__).parents[2]

# Of a thousand faults, so many are of each kind.
_SHARES = {
    "worker killed": 100,
    "worker stopped": 30,
    "worker slow": 110,
    "maps swapped": 50,
    "poses swapped": 50,
    "answers duplicated": 50,
    "answers foreign": 40,
    "garbage from workers": 50,
    "NaN from devices": 40,
    "reducer killed": 40,
    "reducer stopped": 15,
    "reducer's answers swapped": 40,
    "garbage from reducers": 40,
    "node leaves": 12,
    "node dies": 12,
    "node hangs": 6,
    "head dies": 6,
    "head hangs": 4,
    "driver's node dies": 6,
    "driver's node hangs": 4,
    "disk full": 160,
    "object store full": 40,
    "driver killed": 100,
    "driver stopped": 12,
}

# Which kinds are run in one process, and how.
_GROUPS: Mapping[str, tuple[tuple[str, ...], Runs]] = {
    "actors": (tuple(actors.KINDS), actors.actor_runs),
    "nodes": (tuple(nodes.KINDS), nodes.node_runs),
    "storage": ((disks.DISK, disks.STORE), disks.storage_runs),
    "drivers": (drivers.KINDS, drivers.driver_runs),
}
GROUPS = tuple(_GROUPS)
KINDS = tuple(_SHARES)

# On a machine that others use too, workers that give way to all others would take minutes to start.
_RAY = {"RAY_worker_niceness": "0"}

_COLUMNS = ("faults", "runs", "lost", "twice", "changed", "hangs", "other problems")

_TIMES = 20

# The exit code of a group's process that a run which hangs would hold.
HELD = 75

_SHOWN = 4000


def planned(faults: int, only: Sequence[str] | None) -> dict[str, int]:
    """Returns how many faults of each kind there are to be: at least one of each.

    Args:
        faults: in all.
        only: kinds that they are of; all kinds if there are none.
    """
    shares = {kind: share for kind, share in _SHARES.items() if kind in (only or _SHARES)}
    total = sum(shares.values())
    return {kind: ceil(faults * share / total) for kind, share in shares.items()}


def runs(group: str, seed: int, plan: Mapping[str, Part]) -> Iterator[Outcome]:
    """Yields the outcomes of a group's runs in this process."""
    _, run = _GROUPS[group]
    with TemporaryDirectory(prefix="soak-") as folder:
        yield from run(scenery(Path(folder), _TIMES), seed, plan)


def outcomes(plan: Mapping[str, int], seed: int) -> Iterator[Outcome]:
    """Yields the outcomes of all runs of a plan.

    Each group has a process of its own, which Ray may end with what it runs on, and which a run
    that hangs ends. The next process then goes on with the next run.

    Args:
        plan: faults by kind.
        seed: of the faults.
    """
    for group, (kinds, _) in _GROUPS.items():
        left = {kind: Part(plan[kind]) for kind in kinds if kind in plan}
        while left:
            before = left
            for outcome in _outcomes_of_process(group, seed, left):
                yield outcome
                left = left_after(left, outcome)
            if left == before:
                yield Outcome(group, -1, 0, problems=(f"no run of {', '.join(left)}",))
                break


def left_after(plan: Mapping[str, Part], outcome: Outcome) -> dict[str, Part]:
    """Returns what is left of a plan after a run."""
    left = {**plan}
    if part := left.pop(outcome.kind, None):
        faults = part.faults - (outcome.faults or bool(outcome.problems) or outcome.hangs)
        if faults > 0:
            left[outcome.kind] = Part(faults, max(part.first, outcome.number + 1))
    return left


def _outcomes_of_process(group: str, seed: int, plan: Mapping[str, Part]) -> Iterator[Outcome]:
    """Yields the outcomes of the runs that a process of a group makes until it ends."""
    options = ["--seed", str(seed), "--group", group, "--plan", json.dumps(plan)]
    with (
        TemporaryFile("w+") as err,
        subprocess.Popen(
            [sys.executable, "-m", "tests.soak", *options],
            cwd=_REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env={**os.environ, **_RAY},
        ) as process,
    ):
        for line in process.stdout or ():
            # Ray prints to the same place.
            if line.startswith("{"):
                yield Outcome(**json.loads(line))
        if process.wait():
            err.seek(0)
            sys.stderr.write(err.read()[-_SHOWN:])
            if process.returncode != HELD:
                yield Outcome(group, -1, 0, problems=(f"exit code {process.returncode}",))


def table(found: Sequence[Outcome]) -> str:
    """Returns a table in markdown: kinds, their faults, what became of the runs, and the worst."""
    lines = [
        f"| kind | {' | '.join(_COLUMNS)} | worst time, s |",
        f"|{'---|' * (len(_COLUMNS) + 2)}",
    ]
    for kind in (*KINDS, "all"):
        of_kind = [one for one in found if kind in {one.kind, "all"}]
        if of_kind:
            worst_s = max(one.seconds for one in of_kind)
            sums = " | ".join(map(str, _sums(of_kind)))
            lines.append(f"| {kind} | {sums} | {worst_s:.0f} |")
    phases = Counter[str]()
    for one in found:
        phases.update(one.phases)
    met = ", ".join(f"{count} in {phase}" for phase, count in phases.items())
    return "\n".join(lines) + "\n" + (f"\nPhases that drivers ended in: {met}.\n" if met else "")


def _sums(found: Sequence[Outcome]) -> tuple[int, ...]:
    """Returns the figures of `_COLUMNS`."""
    names = ("lost", "twice", "changed", "hangs")
    ends = (sum(getattr(one, name) for one in found) for name in names)
    problems = sum(bool(one.problems) for one in found)
    return sum(one.faults for one in found), len(found), *ends, problems


def commit() -> str:
    """Returns the commit that is checked out, shortened."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
