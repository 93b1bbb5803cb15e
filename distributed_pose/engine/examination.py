"""Examines the devices of a node and their backends."""

from collections.abc import Iterable

from distributed_pose.backends.readiness import NodeSurvey, examine
from distributed_pose.backends.registry import candidates
from distributed_pose.config.selection import Selection
from distributed_pose.devices.driverless import driverless_cards
from distributed_pose.engine.deployment import chip_of
from distributed_pose.records.devices import DevicePlan


def examine_node(address: str, plans: Iterable[DevicePlan], selection: Selection) -> NodeSurvey:
    """Returns the survey of the node that calls this function.

    Args:
        address: address of the node.
        plans: devices of the node.
        selection: selection of the run.
    """
    backends = {
        plan.name: examine(_names(selection, plan.kind), chip_of(selection, plan)) for plan in plans
    }
    return NodeSurvey(address, backends, driverless_cards())


def _names(selection: Selection, kind: str) -> tuple[str, ...]:
    """Returns the backends to examine on devices of a kind, starting with the configured ones."""
    configured = selection.kinds[kind].candidates
    return tuple(dict.fromkeys((*configured, *candidates("auto", kind))))
