"""Reads the free resources of a node of the cluster, and the jobs that hold the others."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state
from ray.core.generated.common_pb2 import (  # type: ignore[attr-defined]
    NORMAL_TASK,
    RUNNING,
    RUNNING_IN_RAY_GET,
    RUNNING_IN_RAY_WAIT,
)
from ray.core.generated.gcs_pb2 import (  # type: ignore[attr-defined]
    ActorTableData,
    TaskEvents,
)

from distributed_pose.records.devices import DevicePlan

# A message shows no more jobs than this, and no more characters of each command line.
_MAX_SHOWN = 3
_MAX_COMMAND = 60

_RUNNING = (RUNNING, RUNNING_IN_RAY_GET, RUNNING_IN_RAY_WAIT)

_ENTRYPOINT = "the entrypoint of a submitted job, by --entrypoint-num-cpus or the like"

# Ray gives a resource such a name for actors in a placement group.
_IN_GROUP = re.compile(r"(\w+)_group_\d+_[0-9a-f]+")


def shortage(plan: DevicePlan, reserved: Mapping[str, float]) -> str:
    """Returns which resources a worker's node lacks and who holds them; empty if it has enough.

    Only resources that other jobs hold count as lacking. The worker's own process may hold the
    rest, since it can take minutes to start on a busy machine.

    Ray has no public call for the free resources of a single node, nor for their holders without a
    dashboard. If its private calls fail, the result is empty.

    Args:
        plan: plan of the worker's device.
        reserved: amounts that the worker reserves, by Ray's name of the resource.
    """
    try:
        held = [*_held_by_actors(plan.node_id), *_held_by_tasks(plan.node_id)]
        left = _left(plan.node_id, held)
        holders = _holders(held)
    except Exception:  # noqa: BLE001 - a private call of Ray, which may change
        return ""
    lacking = [
        f"{left.get(name, 0.0):g} of the {amount:g} {name} that it needs"
        for name, amount in reserved.items()
        if left.get(name, 0.0) < amount
    ]
    if not lacking:
        return ""
    return f"node {plan.node} has free {' and '.join(lacking)}; held by {holders}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """The resources of a node that an actor or a task of another job holds.

    Attributes:
        holder: description of the job.
        kind: `actors` or `tasks`.
        resources: amounts by Ray's name of the resource.
    """

    holder: str
    kind: str
    resources: Mapping[str, float]


def _held_by_actors(node_id: str) -> Iterator[_Held]:
    mine = ray.get_runtime_context().get_job_id()
    commands = _commands()
    for content in _accessor().get_actor_table(None, "ALIVE"):
        actor = ActorTableData.FromString(content)
        job_id = actor.job_id.hex()
        if actor.address.node_id.hex() != node_id or job_id == mine:
            continue
        is_entrypoint = actor.class_name == "JobSupervisor"
        holder = _ENTRYPOINT if is_entrypoint else _describe(job_id, commands)
        yield _Held(holder=holder, kind="actors", resources=actor.required_resources)


def _held_by_tasks(node_id: str) -> Iterator[_Held]:
    mine = ray.get_runtime_context().get_job_id()
    commands = _commands()
    for content in _accessor().get_task_events():
        task = TaskEvents.FromString(content)
        update, job_id = task.state_updates, task.job_id.hex()
        is_running = max(update.state_ts_ns, default=0) in _RUNNING
        # Methods of actors are tasks, too, and use what their actor holds.
        is_plain = task.task_info.type == NORMAL_TASK
        if is_running and is_plain and update.node_id.hex() == node_id and job_id != mine:
            held = task.task_info.required_resources
            yield _Held(holder=_describe(job_id, commands), kind="tasks", resources=held)


def _left(node_id: str, held: Sequence[_Held]) -> Mapping[str, float]:
    """Returns the resources of a node that other jobs do not hold."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    (resources,) = (node["Resources"] for node in nodes if node["NodeID"] == node_id)
    left: dict[str, float] = {**resources}
    for one in held:
        for name, amount in one.resources.items():
            in_group = _IN_GROUP.fullmatch(name)
            real = in_group[1] if in_group else name
            left[real] = left.get(real, 0.0) - amount
    return left


def _holders(held: Sequence[_Held]) -> str:
    """Returns a text that lists the other jobs that hold resources of a node."""
    numbers = Counter((one.holder, one.kind) for one in held if any(one.resources.values()))
    names = [f"{holder} ({count} {kind})" for (holder, kind), count in numbers.most_common()]
    more = [f"{len(names) - _MAX_SHOWN} more"] if len(names) > _MAX_SHOWN else []
    return ", ".join([*names[:_MAX_SHOWN], *more])


def _accessor() -> Any:
    return state.state._connect_and_get_accessor()  # noqa: SLF001


def _commands() -> Mapping[str, str]:
    """Returns the command lines of the cluster's jobs, by the id of the job."""
    return {job["JobID"]: job["Entrypoint"] for job in state.jobs()}  # type: ignore[no-untyped-call]


def _describe(job_id: str, commands: Mapping[str, str]) -> str:
    command = " ".join(commands.get(job_id, "").split()) or "of an unknown command"
    # The end of a command names the program; its beginning is the path of an interpreter.
    shown = command if len(command) <= _MAX_COMMAND else f"...{command[-_MAX_COMMAND:]}"
    return f"job {job_id} {shown}"
