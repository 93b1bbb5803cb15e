"""Checks that the processes of a run can become ready, and describes why they cannot."""

from distributed_pose.cluster.actors import reservation
from distributed_pose.cluster.calls import Actor
from distributed_pose.cluster.reservations import shortage
from distributed_pose.errors import BackendError, SetupError

# The resources of a run that has just ended are free again within seconds; resources that stay
# reserved for longer belong to another job.
_RESERVATION_S = 15.0


def check_start(actor: Actor, *, has_begun: bool) -> None:
    """Checks that an actor is ready, or can still become ready.

    Args:
        actor: a worker or reducer.
        has_begun: whether it has begun to load its backend.

    Raises:
        SetupError: if it is not ready in time, waits for resources that other jobs hold, or is
            excluded.
        BackendError: if it is excluded after it began to load its backend.
    """
    _check_reservation(actor)
    if actor.starting and actor.is_overdue():
        raise SetupError(
            f"not ready within {actor.start_deadline_s:.0f} s",
            "check `ray status` and the logs of its node",
            device=actor.name,
        )
    if actor.health.is_excluded:
        # A device whose process died of its backend may work with another backend.
        kind = BackendError if has_begun else SetupError
        raise kind(f"on node {actor.node_address}: {actor.health.faults[-1]}", device=actor.name)


def other_code(actor: Actor, difference: str) -> SetupError:
    """Returns the error of a process that runs other code than the driver."""
    return SetupError(
        f"on node {actor.node_address} {difference}",
        "install the same version on all nodes",
        device=actor.name,
    )


def _check_reservation(actor: Actor) -> None:
    """Checks that a worker does not wait for resources that other jobs hold.

    Raises:
        SetupError: if it has waited for them for some time.
    """
    if not (actor.starting and actor.plan) or actor.place or actor.waited_s < _RESERVATION_S:
        return
    if lacking := shortage(actor.plan, reservation(actor.plan)):
        raise SetupError(
            lacking, "wait for that job, end it, or choose other devices", device=actor.name
        )
