"""What a node says of its devices and their backends."""

from collections.abc import Iterable

from distributed_pose.backends.readiness import NodeSurvey, examine
from distributed_pose.backends.registry import candidates
from distributed_pose.config.schema import RunConfig
from distributed_pose.devices.driverless import driverless_cards
from distributed_pose.engine.deployment import chip_of
from distributed_pose.records import DevicePlan


def examine_node(address: str, plans: Iterable[DevicePlan], config: RunConfig) -> NodeSurvey:
    """Returns what a node says of itself; called on it.

    Args:
        address: of the node.
        plans: its devices.
        config: of the run.
    """
    backends = {
        plan.name: examine(_names(config, plan.kind), chip_of(config, plan)) for plan in plans
    }
    return NodeSurvey(address, backends, driverless_cards())


def _names(config: RunConfig, kind: str) -> tuple[str, ...]:
    """Returns the backends to examine on devices of a kind, those that are configured first."""
    configured = candidates(config.on(kind).backend, kind)
    return tuple(dict.fromkeys((*configured, *candidates("auto", kind))))
