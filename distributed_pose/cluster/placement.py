"""Matches processes to the workers of the devices that Ray gave them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from distributed_pose.cluster.actors import DeviceAssignment
from distributed_pose.cluster.calls import Actor
from distributed_pose.devices.kinds import CPU
from distributed_pose.devices.planning import Node
from distributed_pose.errors import SetupError

if TYPE_CHECKING:
    from distributed_pose.records.devices import DevicePlan


def match_device(
    place: DeviceAssignment, actor: Actor, workers: Sequence[Actor], nodes: Sequence[Node]
) -> Actor | None:
    """Returns the worker of the device that Ray gave a process; None if the run has none for it.

    Args:
        place: device that the process reports.
        actor: worker that the process was started for.
        workers: workers of the run.
        nodes: nodes of the cluster.

    Raises:
        SetupError: if the run uses only some of a node's devices and the node does not number them
            from 0, so that the devices cannot be identified.
    """
    plan = cast("DevicePlan", actor.plan)
    if plan.kind == CPU:
        return actor
    peers = [
        worker
        for worker in workers
        if worker.plan and (worker.plan.kind, worker.node_id) == (plan.kind, plan.node_id)
    ]
    available = [
        device.device_id
        for node in nodes
        if node.node_id == plan.node_id
        for device in node.accelerators
        if device.kind == plan.kind
    ]
    sharers = [peer for peer in peers if peer.plan and peer.plan.device_id == place.device_id]
    if sharers:
        waiting = [peer for peer in sharers if peer.starting and peer.place is None]
        # Workers that share a device are interchangeable.
        return actor if actor in waiting else next(iter(waiting), None)
    # The run uses all devices of the node, so the numbers that the node gives them do not matter.
    if len({peer.plan.device_id for peer in peers if peer.plan}) == len(available):
        return actor
    if place.device_id in available:
        return None
    raise SetupError(
        f"the node numbers its {plan.kind} devices otherwise, for example {place.device_id}",
        f"choose all of them, devices={plan.kind}:*",
        device=actor.name,
    )
