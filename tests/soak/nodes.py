"""Nodes that leave a cluster in the middle of a run, or hang."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from distributed_pose.evaluation import evaluate
from distributed_pose.report.run_report import RunReport
from distributed_pose.run.state import RunState
from tests.clusters import alive_nodes
from tests.soak.runs import Outcome, Part, Scenery, in_time, outcome_of, until

_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
_NODES_A_RUN = 3

# Ray misses a node that hangs after five unanswered questions of 3 s; the calls to it may have been
# given two deadlines each before.
_HANG_S = 40.0
_DEADLINE_S = 2.0

# What happens to a node: the signal that its raylet gets.
KINDS = {
    "node leaves": signal.SIGTERM,
    "node dies": signal.SIGKILL,
    "node hangs": signal.SIGSTOP,
}


def node_runs(there: Scenery, seed: int, plan: Mapping[str, Part]) -> Iterator[Outcome]:
    """Yields runs until so many nodes have met each kind of fault.

    The cluster of the runs has a head, which stays, and other nodes for each.
    """
    head = Cluster(initialize_head=True, head_node_args={**_NODE, "include_dashboard": False})
    ray.init(address=head.address, log_to_driver=False)
    usual_s = _usual_s(head, there)
    for kind, part in plan.items():
        yield from until(
            kind,
            part,
            partial(
                lambda kind, number, left: _run(
                    kind,
                    number,
                    head,
                    there,
                    Random(f"{seed} {kind} {number}"),
                    min(left, _NODES_A_RUN),
                    usual_s,
                ),
                kind,
            ),
        )
    ray.shutdown()
    head.shutdown()


def _usual_s(head: Cluster, there: Scenery) -> float:
    _with_nodes(head)
    start = time.monotonic()
    _evaluate(there, there.folder / "usual", lambda _: None)
    _without_nodes(head)
    return time.monotonic() - start


def _run(
    kind: str,
    number: int,
    head: Cluster,
    there: Scenery,
    random: Random,
    count: int,
    usual_s: float,
) -> Outcome:
    output = there.folder / f"{kind.replace(' ', '-')}-{number}"
    raylets = _with_nodes(head)
    # So many nodes when so many images are done.
    when = sorted(random.sample(range(there.num_images * 3 // 4), count))
    happened: list[int] = []

    def disturb(state: RunState) -> None:
        while len(happened) < count and when[len(happened)] <= state.done < state.total:
            victim = raylets[len(happened)]
            os.kill(victim.pid, KINDS[kind])
            happened.append(victim.pid)

    limit_s = 10 * usual_s + count * (_HANG_S if kind == "node hangs" else 5.0)
    start = time.monotonic()
    end = in_time(partial(_evaluate, there, output, disturb), limit_s)
    seconds = time.monotonic() - start
    outcome = outcome_of(kind, number, there, output, end, len(happened), seconds)
    for victim in raylets:
        victim.kill()
    _without_nodes(head)
    return outcome


def _with_nodes(head: Cluster) -> list[psutil.Process]:
    """Adds nodes to a cluster, and returns their raylets."""
    before = {*_raylets()}
    for _ in range(_NODES_A_RUN):
        head.add_node(**_NODE)
    return sorted({*_raylets()} - before, key=lambda process: process.pid)


def _raylets() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if process.name() == "raylet"]


def _without_nodes(head: Cluster) -> None:
    for node in [*head.worker_nodes]:
        head.remove_node(node, allow_graceful=False)
    end = time.monotonic() + 60
    while len(alive_nodes()) > 1:
        assert time.monotonic() < end, "nodes that were ended are still in the cluster"
        time.sleep(0.2)


def _evaluate(there: Scenery, output: Path, on_progress: Callable[[RunState], None]) -> RunReport:
    config = there.dataset.config(
        engine="ray",
        backend="simulated",
        simulated={"rate": 20.0},
        batch_size=2,
        reducers=2,
        deadline_s=_DEADLINE_S,
    )
    return evaluate(config, output, on_progress)
