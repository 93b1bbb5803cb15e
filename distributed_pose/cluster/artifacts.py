"""Makes the artifacts that the devices of a run load, each one once, in the object store."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import ray

from distributed_pose.cluster.answers import CallFailure, fetch, wait
from distributed_pose.cluster.calls import Actor
from distributed_pose.engine.base import starting
from distributed_pose.errors import PoseEvalError, SetupError
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.compile import compile_model, needs_device, portable
from distributed_pose.model.makers import Calibration
from distributed_pose.records.models import CompileSpec

# Vendors' compilers take minutes, and with tuning tens of minutes.
_TIMEOUT_S = 7200.0


def make_artifacts(
    model: ModelSource,
    workers: Sequence[Actor],
    orders: Mapping[str, CompileSpec],
    calibration: Calibration | None,
    ask: Callable[[Actor, Any], Any],
) -> dict[CompileSpec, Any]:
    """Returns references to the artifacts, by order.

    Each artifact is made once, for the first worker that orders it.

    Args:
        model: model of the user.
        workers: workers that load the artifacts.
        orders: specification of the artifact of each worker, by its name.
        calibration: calibration data for artifacts that compute in int8.
        ask: returns the answer to a call of a worker, which compiles on its device.

    Raises:
        BackendError: if an artifact cannot be made; names the device.
    """
    artifacts: dict[CompileSpec, Any] = {}
    for worker in workers:
        order = orders[worker.name]
        if order not in artifacts:
            with starting(worker.name):
                source = portable(model, order)
                if needs_device(source, order):
                    content = ask(worker, worker.handle.compile.remote(source, order))
                else:
                    content = compile_model(source, order, calibration).content
                artifacts[order] = ray.put(content)
    return artifacts


def long_answer(actor: Actor, reference: Any, check_stopped: Callable[[], None]) -> Any:
    """Returns the answer to a call that may take hours; used before shards are in flight.

    Args:
        actor: actor that was called.
        reference: reference to the answer.
        check_stopped: called about once per second; raises if the run is stopped meanwhile.

    Raises:
        PoseEvalError: if the actor raises one; it then names the device.
        SetupError: if the call fails otherwise, or there is no answer in time.
    """
    deadline_at = monotonic() + _TIMEOUT_S
    while not (done := wait([reference], [deadline_at])) and monotonic() < deadline_at:
        check_stopped()
    if not done:
        raise SetupError(f"no answer within {_TIMEOUT_S:.0f} s", device=actor.name)
    answer = fetch(reference)
    if not isinstance(answer, CallFailure):
        return answer
    if isinstance(answer.error, PoseEvalError):
        answer.error.device = actor.name
        raise answer.error
    raise SetupError(answer.reason, device=actor.name)
