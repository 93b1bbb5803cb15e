"""Faults of workers and reducers: many in each run, on a cluster that outlasts the runs.

A run has a plan of the calls that fail. A fault meets only calls whose images none has met before:
what fails again and again may be the fault of the images, which are then given up, and rightly.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from random import Random
from typing import Any, NamedTuple

import pytest
import ray

from distributed_pose.evaluation import evaluate
from distributed_pose.report.run_report import RunReport
from tests.faults import FaultyReducer, Scene, Stage
from tests.soak import acts
from tests.soak.acts import DEADLINE_S, Act
from tests.soak.runs import Outcome, Part, Scenery, in_time, outcome_of, until

_BATCH_SIZE = 2

# Faults are so many calls apart, or devices would fail four times in a row by design.
_CALLS_A_FAULT = 6
_FIRST_CALL = 4

# A process starts anew after a fault, on a machine with less cores than the run has processes.
_START_S = 5.0


class Kind(NamedTuple):
    """Faults of one kind.

    Attributes:
        acts: what is done instead of work, in turns.
        gather: what the workers of the runs answer with; any if empty.
        of_reducers: whether reducers do it.
        is_told: whether the report names each, so that those that it does not name do not count.
        hang_s: seconds that each may take until it is found out.
        most: faults in a run.
    """

    acts: tuple[Act, ...]
    gather: str = ""
    of_reducers: bool = False
    is_told: bool = True
    hang_s: float = 0.0
    most: int = 20


# A worker of the simulated devices here has at most this many calls in flight.
_CALLS = 5

# Calls of a tenth of a second may take four times as long as ten of them, since they are given two
# deadlines and there are two at a process; and Ray needs 5 s to end a process that is stopped.
_HANG_S = 2 * _CALLS * (DEADLINE_S + 10 * 0.2) + 5.0
_ERRORS = (acts.answer_other_type, acts.raise_unreadable, acts.raise_stop, acts.exit_process)
_OTHERS = (acts.answer_as_before, acts.answer_for_others, acts.answer_twice, acts.swap_people)
_NONSENSE = (acts.answer_garbage, acts.answer_not_finite, *_ERRORS)

KINDS = {
    "worker killed": Kind((acts.kill,)),
    "worker stopped": Kind((acts.stop,), is_told=False, hang_s=_HANG_S, most=5),
    "worker slow": Kind((acts.answer_late,), is_told=False, hang_s=_HANG_S, most=5),
    "maps swapped": Kind((acts.swap_part,), gather="maps"),
    "poses swapped": Kind((acts.swap_part,), gather="poses"),
    "answers duplicated": Kind((acts.answer_as_before, acts.answer_twice)),
    "answers foreign": Kind((acts.answer_for_others,)),
    "garbage from workers": Kind(_ERRORS),
    "NaN from devices": Kind((acts.answer_nan,)),
    "reducer killed": Kind((acts.kill,), "maps", of_reducers=True),
    "reducer stopped": Kind(
        (acts.stop,), "maps", of_reducers=True, is_told=False, hang_s=_HANG_S, most=5
    ),
    "reducer's answers swapped": Kind(_OTHERS, "maps", of_reducers=True),
    "garbage from reducers": Kind(_NONSENSE, "maps", of_reducers=True),
}


def actor_runs(there: Scenery, seed: int, plan: Mapping[str, Part]) -> Iterator[Outcome]:
    """Yields runs until they have had so many faults of each kind."""
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20
    )
    usual_s = _usual_s(there)
    for kind, part in plan.items():
        yield from until(
            kind,
            part,
            partial(
                lambda kind, number, left: _run(
                    kind, number, there, Random(f"{seed} {kind} {number}"), left, usual_s
                ),
                kind,
            ),
        )
    ray.shutdown()


def _usual_s(there: Scenery) -> float:
    """Returns the seconds of a run without faults, once its processes start from a warm disk."""
    seconds = []
    for number in range(2):
        start = time.monotonic()
        _evaluate(there, f"usual-{number}", {})
        shutil.rmtree(there.folder / f"usual-{number}")
        seconds.append(time.monotonic() - start)
    return min(seconds)


def _run(
    name: str, number: int, there: Scenery, random: Random, left: int, usual_s: float
) -> Outcome:
    """Returns the outcome of a run with at most so many faults of a kind."""
    kind = KINDS[name]
    count = min(left, kind.most)
    first, last = _FIRST_CALL, there.num_images // _BATCH_SIZE // _CALLS_A_FAULT
    slots = random.sample(range(last), min(count, last))
    plan = frozenset(first + slot * _CALLS_A_FAULT for slot in slots)
    values = {"gather": kind.gather or random.choice(("maps", "poses"))}
    limit_s = 10 * usual_s + len(plan) * (kind.hang_s + _START_S)
    label = f"{name.replace(' ', '-')}-{number}"
    scene = Scene(there.folder / f"{label}-scene")
    scene.folder.mkdir()
    start = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        base = FaultyReducer if kind.of_reducers else acts.SoakedWorker
        actor = "_ReducerActor" if kind.of_reducers else "_WorkerActor"
        fault = partial(acts.at_planned_calls, plan=plan, acts=kind.acts)
        Stage(scene, patch)._replace(actor, base, fault)
        end = in_time(partial(_evaluate, there, label, values), limit_s)
    seconds = time.monotonic() - start
    happened = scene.count("fault")
    if kind.is_told and isinstance(end, RunReport):
        happened = min(happened, sum(map(len, end.faults.reasons.values())))
    shutil.rmtree(scene.folder)
    return outcome_of(name, number, there, there.folder / label, end, happened, seconds)


def _evaluate(there: Scenery, label: str, values: dict[str, Any]) -> RunReport:
    config = there.dataset.config(
        engine="ray",
        backend="simulated",
        simulated={"rate": 200.0},
        batch_size=_BATCH_SIZE,
        devices="cpu:3",
        reducers=2,
        deadline_s=DEADLINE_S,
        **values,
    )
    return evaluate(config, there.folder / label)
