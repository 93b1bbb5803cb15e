"""Which devices a run uses: requests such as `cpu:2` laid out over the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

from distributed_pose.records import DevicePlan


@dataclass(frozen=True)
class Node:
    """A machine that workers can be placed on.

    Attributes:
        address: as the cluster knows it; empty for this machine without a cluster.
        node_id: the cluster's identifier; empty likewise.
        cpus: CPUs that may be reserved.
        object_store_bytes: room for shards and maps; 0 without a cluster.
    """

    address: str
    node_id: str
    cpus: int
    object_store_bytes: int = 0


def plan_devices(requests: Sequence[str], nodes: Sequence[Node]) -> tuple[DevicePlan, ...]:
    """Returns the devices of a run, one worker each.

    `auto` is one CPU worker on every node, `cpu` is one worker and `cpu:N` are N workers, dealt
    over the nodes in turn. The workers of a node share its CPUs evenly.

    Args:
        requests: as checked by the configuration.
        nodes: at least one.
    """
    count = len(nodes) if tuple(requests) == ("auto",) else sum(map(_count, requests))
    owners = [nodes[index % len(nodes)] for index in range(count)]
    return tuple(
        DevicePlan(
            name=f"cpu:{index}",
            kind="cpu",
            node=node.address,
            node_id=node.node_id,
            cpus=_share(node, owners.count(node)),
        )
        for index, node in enumerate(owners)
    )


def _count(request: str) -> int:
    _, _, number = request.partition(":")
    return int(number or 1)


def _share(node: Node, workers: int) -> float:
    # Ray takes fractions of a CPU only below one.
    return node.cpus // workers if workers <= node.cpus else node.cpus / workers
