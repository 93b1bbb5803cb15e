"""Reads the free resources of a node of the cluster, and the jobs that hold the others."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import state
from ray.core.generated.gcs_pb2 import ActorTableData  # type: ignore[attr-defined]

from distributed_pose.records import DevicePlan

# A message shows no more jobs than this, and no more characters of each command line.
_MAX_SHOWN = 3
_MAX_COMMAND = 60

# Ray gives a resource such a name for actors in a placement group.
_IN_GROUP = re.compile(r"(\w+)_group_\d+_[0-9a-f]+")


def shortage(plan: DevicePlan, reserved: Mapping[str, float]) -> str:
    """Returns which resources a worker's node lacks and who holds them; empty if it has enough.

    Only resources that actors of other jobs hold count as lacking. Ray does not report whether
    tasks hold the rest or the worker's own process, which can take minutes to start on a busy
    machine.

    Ray has no public call for the free resources of a single node, nor for their holders without a
    dashboard. If its private calls fail, the result is empty.

    Args:
        plan: plan of the worker's device.
        reserved: amounts that the worker reserves, by Ray's name of the resource.
    """
    try:
        free = _left_by_others(plan.node_id)
        holders = _holders(plan.node_id)
    except Exception:  # noqa: BLE001 - a private call of Ray, which may change
        return ""
    lacking = [
        f"{free.get(name, 0.0):g} of the {amount:g} {name} that it needs"
        for name, amount in reserved.items()
        if free.get(name, 0.0) < amount
    ]
    if not lacking:
        return ""
    return f"node {plan.node} has free {' and '.join(lacking)}; held by {holders}"


def _left_by_others(node_id: str) -> Mapping[str, float]:
    """Returns the resources of a node that actors of other jobs do not hold."""
    mine = ray.get_runtime_context().get_job_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    (resources,) = (node["Resources"] for node in nodes if node["NodeID"] == node_id)
    left = Counter[str](resources)
    accessor = state.state._connect_and_get_accessor()  # noqa: SLF001
    for content in accessor.get_actor_table(None, "ALIVE"):
        actor = ActorTableData.FromString(content)
        if actor.address.node_id.hex() == node_id and actor.job_id.hex() != mine:
            for name, amount in actor.required_resources.items():
                in_group = _IN_GROUP.fullmatch(name)
                left[in_group[1] if in_group else name] -= amount
    return left


def _holders(node_id: str) -> str:
    """Returns a text that lists the other jobs that have actors on a node."""
    mine = ray.get_runtime_context().get_job_id()
    jobs = state.jobs()  # type: ignore[no-untyped-call]
    commands = {job["JobID"]: job["Entrypoint"] for job in jobs}
    held: Counter[str] = Counter()
    for actor in state.actors().values():
        if actor["State"] == "ALIVE" and actor["Address"]["NodeID"] == node_id:
            held[_holder(actor, mine, commands)] += 1
    del held[""]
    shown = [f"{holder} ({count} actors)" for holder, count in held.most_common(_MAX_SHOWN)]
    more = [f"{len(held) - _MAX_SHOWN} more"] if len(held) > _MAX_SHOWN else []
    return ", ".join([*shown, *more])


def _holder(actor: Mapping[str, Any], mine: str, commands: Mapping[str, str]) -> str:
    if actor["ActorClassName"] == "JobSupervisor":
        return "the entrypoint of a submitted job, by --entrypoint-num-cpus or the like"
    if actor["JobID"] == mine:
        return ""
    command = " ".join(commands.get(actor["JobID"], "").split()) or "of an unknown command"
    # The end of a command names the program; its beginning is the path of an interpreter.
    shown = command if len(command) <= _MAX_COMMAND else f"...{command[-_MAX_COMMAND:]}"
    return f"job {actor['JobID']} {shown}"
