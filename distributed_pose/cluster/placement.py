"""Which actor runs on which device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from distributed_pose.cluster.actors import DeviceAssignment
from distributed_pose.cluster.calls import Actor
from distributed_pose.devices.planning import Node
from distributed_pose.errors import SetupError

if TYPE_CHECKING:
    from distributed_pose.records import DevicePlan


def match_device(
    place: DeviceAssignment, actor: Actor, workers: Sequence[Actor], nodes: Sequence[Node]
) -> Actor | None:
    """Returns the worker that a process is for, by the device that Ray gave it; None for none.

    Args:
        place: where the process found itself.
        actor: that it was started for.
        workers: of the run.
        nodes: of the cluster.

    Raises:
        SetupError: if a part of a node's devices is wanted, and the node does not count them from
            0, so that nobody can say which is which.
    """
    plan = cast("DevicePlan", actor.plan)
    if plan.kind == "cpu":
        return actor
    peers = [
        worker
        for worker in workers
        if worker.plan and (worker.plan.kind, worker.node_id) == (plan.kind, plan.node_id)
    ]
    there = [
        device.device_id
        for node in nodes
        if node.node_id == plan.node_id
        for device in node.accelerators
        if device.kind == plan.kind
    ]
    sharers = [peer for peer in peers if peer.plan and peer.plan.device_id == place.device_id]
    if sharers:
        waiting = [peer for peer in sharers if peer.starting and peer.place is None]
        # Workers that share a device differ in nothing.
        return actor if actor in waiting else next(iter(waiting), None)
    # All are wanted, and this one by whichever number the node has given it.
    if len({peer.plan.device_id for peer in peers if peer.plan}) == len(there):
        return actor
    if place.device_id in there:
        return None
    raise SetupError(
        f"the node has devices {plan.kind} by other numbers, such as {place.device_id}",
        f"choose all of them, devices={plan.kind}:*",
        device=actor.name,
    )
