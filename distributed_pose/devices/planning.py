"""Plans the devices of a run from requests such as `npu:*` or `cpu:2`, across the nodes."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from distributed_pose.devices.kinds import CPU, KINDS, accelerators
from distributed_pose.errors import SetupError
from distributed_pose.records.devices import DevicePlan


@dataclass(frozen=True)
class Accelerator:
    """A card or chip of a node.

    Attributes:
        kind: kind of the device, a key of `devices.kinds.KINDS`.
        device_id: id of the device on its node.
        model: model name of the device; empty if unknown.
        card: number of the card that has the chip; empty where that is unknown.
    """

    kind: str
    device_id: str
    model: str = ""
    card: str = ""


@dataclass(frozen=True)
class Node:
    """A machine that workers can be placed on.

    Attributes:
        address: address of the node in the cluster; empty for this machine without a cluster.
        node_id: id of the node in the cluster; empty for this machine without a cluster.
        cpus: number of CPUs that may be reserved.
        object_store_bytes: size of the store for shards and maps in flight; 0 without a cluster.
        accelerators: accelerators of the node, in the order of their numbers.
    """

    address: str
    node_id: str
    cpus: int
    object_store_bytes: int = 0
    accelerators: tuple[Accelerator, ...] = ()


def plan_devices(
    requests: Sequence[str],
    nodes: Sequence[Node],
    auto_kinds: Collection[str] = (),
    *,
    cpus: int | None = None,
    workers: Mapping[str, int] = MappingProxyType({}),
) -> tuple[DevicePlan, ...]:
    """Returns the plans of a run's workers, one per device unless more are requested.

    `auto` selects every accelerator of a usable kind or, if there is none, one CPU worker on every
    node. `cpu` is one worker; `cpu:N` are N workers, assigned to the nodes in turn. `npu:*` and
    `cuda:*` select all devices of a kind. `npu:3` selects the device with number 3, counted across
    the nodes in order.

    The workers of a node share its CPUs. Each worker that feeds an accelerator gets one CPU, and
    the CPU workers share the rest.

    Args:
        requests: requests for devices, as checked by the configuration.
        nodes: nodes to place workers on; at least one.
        auto_kinds: kinds of accelerators that `auto` may use.
        cpus: number of CPUs per CPU worker; None for the worker's share of the node's CPUs.
        workers: number of workers per accelerator, by kind; 1 for kinds that are not named.

    Raises:
        SetupError: if a device is not available, or a node has too few CPUs for a CPU worker.
    """
    found = list(_accelerators(nodes))
    if tuple(requests) == ("auto",):
        chosen = [(plan, node) for plan, node in found if plan.kind in auto_kinds]
        wanted = 0 if chosen else len(_with_cpus(nodes))
    else:
        names = _selected(requests, [plan.name for plan, _ in found])
        chosen = [(plan, node) for plan, node in found if plan.name in names]
        wanted = sum(map(_count, requests))
    shared = [part for plan, node in chosen for part in _shared(plan, node, workers)]
    return _with_shares([*shared, *_cpu_workers(wanted, nodes)], cpus)


def _accelerators(nodes: Sequence[Node]) -> Iterator[tuple[DevicePlan, Node]]:
    numbers: Counter[str] = Counter()
    for node in nodes:
        for device in node.accelerators:
            name = f"{device.kind}:{numbers[device.kind]}"
            numbers[device.kind] += 1
            plan = DevicePlan(
                name=name,
                kind=device.kind,
                node=node.address,
                node_id=node.node_id,
                cpus=0,
                device_id=device.device_id,
                model=device.model,
                card=device.card,
            )
            yield plan, node


def _shared(
    plan: DevicePlan, node: Node, workers: Mapping[str, int]
) -> Iterator[tuple[DevicePlan, Node]]:
    """Yields a plan for each worker of a device, with the worker's share of the device."""
    count = workers.get(plan.kind, 1)
    for number in range(count):
        name = f"{plan.name}.{number}" if number else plan.name
        yield replace(plan, name=name, share=1 / count), node


def _selected(requests: Sequence[str], names: Sequence[str]) -> set[str]:
    selected: set[str] = set()
    for request in requests:
        kind, _, number = request.partition(":")
        if kind not in accelerators():
            continue
        of_kind = [name for name in names if name.startswith(f"{kind}:")]
        matching = of_kind if number == "*" else [name for name in of_kind if name == request]
        if not matching:
            available = ", ".join(names) or "only CPUs"
            raise SetupError(
                f"there is no device {request}: found {available}",
                f"see `distributed-pose devices`; on a cluster, `ray status` lists {_resources()}",
            )
        selected.update(matching)
    return selected


def _resources() -> str:
    return " and ".join(sorted(KINDS[kind].resource for kind in accelerators()))


def _cpu_workers(count: int, nodes: Sequence[Node]) -> Iterator[tuple[DevicePlan, Node]]:
    owners = _with_cpus(nodes)
    if count and not owners:
        raise SetupError("no node has a CPU for a CPU worker", "see `ray status`")
    for index in range(count):
        node = owners[index % len(owners)]
        yield (
            DevicePlan(
                name=f"{CPU}:{index}", kind=CPU, node=node.address, node_id=node.node_id, cpus=0
            ),
            node,
        )


def _with_cpus(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node.cpus >= 1]


def _count(request: str) -> int:
    kind, _, number = request.partition(":")
    return int(number or 1) if kind == CPU else 0


def _with_shares(
    placed: Sequence[tuple[DevicePlan, Node]], cpus: int | None
) -> tuple[DevicePlan, ...]:
    feeders = Counter(node for plan, node in placed if plan.kind != CPU)
    workers = Counter(node for plan, node in placed if plan.kind == CPU)
    if cpus:
        _check_room(workers, cpus)
    plans = []
    for plan, node in placed:
        everyone = feeders[node] + workers[node]
        if cpus and plan.kind == CPU:
            share: float = cpus
        elif node.cpus <= everyone:
            share = node.cpus / everyone
        elif plan.kind == CPU:
            share = (node.cpus - feeders[node]) // workers[node]
        else:
            share = 1
        plans.append(replace(plan, cpus=share))
    return tuple(plans)


def _check_room(workers: Counter[Node], cpus: int) -> None:
    for node, count in workers.items():
        if count * cpus > node.cpus:
            where = f"node {node.address}" if node.address else "this machine"
            raise SetupError(
                f"{where} has {node.cpus} CPUs, and {count} CPU workers of {cpus} each need "
                f"{count * cpus}",
                "set a smaller cpu.cpus, or fewer workers by devices=cpu:N",
            )
