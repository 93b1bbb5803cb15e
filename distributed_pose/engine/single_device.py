"""Starts one device of this machine, for measurements that need no engine."""

from collections.abc import Callable
from typing import TypeVar

from distributed_pose.config.selection import Selection
from distributed_pose.engine.base import starting
from distributed_pose.engine.choice import Choice, examine_here, warn_passed_over
from distributed_pose.engine.deployment import Deployment
from distributed_pose.errors import BackendError
from distributed_pose.records.devices import DevicePlan

_T = TypeVar("_T")


def start_here(
    selection: Selection, plan: DevicePlan, model_format: str, start: Callable[[Deployment], _T]
) -> _T:
    """Starts a single device of this machine with the best backend that can start on it.

    Args:
        selection: selection of the run.
        plan: the device.
        model_format: format of the user's model; empty for any.
        start: function that starts a deployment and returns the result of this function.

    Raises:
        ConfigError: if `Choice.deployments` raises it.
        SetupError: if no backend can start.
    """
    choice = Choice(selection, model_format)
    site = examine_here(selection, plan)
    while True:
        deployment = choice.deployments([site])[plan.name]
        try:
            with starting(plan.name):
                started = start(deployment)
        except BackendError as error:
            choice.rule_out(error, deployment)
        else:
            warn_passed_over([deployment])
            return started
