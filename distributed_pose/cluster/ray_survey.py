"""Asks each node of a Ray cluster which backends can run its devices."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_pose.backends.readiness import NodeSurvey
from distributed_pose.cluster.answers import CallFailure, fetch
from distributed_pose.cluster.connection import live_nodes
from distributed_pose.cluster.engine import RayEngine
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import Selection
from distributed_pose.devices.lacks import Lack
from distributed_pose.devices.planning import Node
from distributed_pose.engine.examination import examine_node
from distributed_pose.files.package_identity import PackageIdentity, difference, package_identity
from distributed_pose.records.devices import DevicePlan

# A process starts within seconds, but its probes can take a minute.
_TIMEOUT_S = 180.0


def survey_nodes(
    config: RunConfig,
    selection: Selection,
    choose: Callable[[Selection, Sequence[Node]], tuple[DevicePlan, ...]] | None,
) -> tuple[tuple[DevicePlan, ...], list[NodeSurvey]]:
    """Returns devices of a cluster, and the surveys of their nodes.

    Args:
        config: configuration of the run.
        selection: selection of the run.
        choose: function that selects devices of the given nodes; None selects the devices that an
            evaluation would use.

    Raises:
        SetupError: if a device is not available, or the cluster cannot be joined.
    """
    with RayEngine(config) as engine:
        if choose:
            plans = choose(selection, engine.guard.call(live_nodes))
        else:
            plans = engine.devices(selection)
        return plans, engine.guard.call(_surveys, plans, selection)


def _surveys(plans: Sequence[DevicePlan], selection: Selection) -> list[NodeSurvey]:
    """Returns the surveys of the nodes that devices are on."""
    by_node: dict[str, list[DevicePlan]] = defaultdict(list)
    for plan in plans:
        by_node[plan.node_id].append(plan)
    calls = {_ask(node_id, on_node, selection): on_node for node_id, on_node in by_node.items()}
    # All nodes are asked at once, since each takes seconds.
    done, _ = ray.wait([*calls], num_returns=len(calls), timeout=_TIMEOUT_S)
    return [_answer(call, calls[call], is_there=call in done) for call in calls]


@ray.remote(num_cpus=0, max_retries=0)
def _examine(
    address: str, plans: tuple[DevicePlan, ...], selection: Selection
) -> tuple[PackageIdentity, NodeSurvey]:
    return package_identity(), examine_node(address, plans, selection)


def _ask(node_id: str, plans: Sequence[DevicePlan], selection: Selection) -> Any:
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    on_node = _examine.options(scheduling_strategy=place)
    return on_node.remote(plans[0].node, tuple(plans), selection)


def _answer(call: Any, plans: Sequence[DevicePlan], *, is_there: bool) -> NodeSurvey:
    """Returns the survey of a node, or one that says why the node could not be surveyed.

    Args:
        call: reference to the node's answer.
        plans: devices of the node.
        is_there: whether the answer has arrived in time.
    """
    answer = fetch(call) if is_there else CallFailure(f"no answer within {_TIMEOUT_S:.0f} s")
    if isinstance(answer, CallFailure):
        lack = Lack("an answer of its processes", answer.reason, "check the logs of its Ray")
    elif different := difference(answer[0]):
        lack = Lack("the driver's version", different, "install the same version on all nodes")
    else:
        found: NodeSurvey = answer[1]
        return found
    return NodeSurvey(plans[0].node, {plan.name: () for plan in plans}, (lack,))
