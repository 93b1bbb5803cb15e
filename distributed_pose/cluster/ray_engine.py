"""The engine on Ray: device-pinned actors that pull work, and reducers as actors.

The driver hands out shards and counts results; heatmaps and PAFs go from worker to reducer
through the object store and never pass through the driver.

Every wait has a deadline. A call that passes its own is given to another device as well; after
twice the time its actor is ended and started anew, as is one whose process dies.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

import ray

from distributed_pose.cluster.deployment import Deployment, auto_kinds, deploy
from distributed_pose.cluster.devices import plan_devices
from distributed_pose.cluster.engine import failed_result, shard_result
from distributed_pose.cluster.health import Health, collect_faults, none_left
from distributed_pose.cluster.ray_actors import IN_FLIGHT, Place, create_reducer, create_worker
from distributed_pose.cluster.ray_calls import Actor, Call, Trouble, ask, fetch, owner_of
from distributed_pose.cluster.ray_connection import connect, is_alive, live_nodes
from distributed_pose.cluster.transit import Transit
from distributed_pose.cluster.work import Work
from distributed_pose.config import RunConfig
from distributed_pose.cpu import peak_rss_bytes
from distributed_pose.data.read_ahead import read_ahead
from distributed_pose.data.shards import Shard
from distributed_pose.errors import ExecutionError, PoseEvalError, SetupError
from distributed_pose.model.artifacts import Source
from distributed_pose.model.compile import (
    Calibration,
    compile_model,
    needs_device,
    portable,
)
from distributed_pose.records import DevicePlan, DeviceReady, Faults, Memory, Order, ShardResult

_LOG = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 5.0
_QUESTION_TIMEOUT_S = 2.0

# Compilers of vendors take minutes, and with tuning tens of them.
_LONG_TIMEOUT_S = 7200.0

# Every fault is dealt with long before; this is for the one that nobody has thought of.
_STALL_FACTOR = 10


class RayEngine:
    """Runs workers and reducers as Ray actors on the cluster at hand, or on a local one."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._owns_ray = False
        self._workers: list[Actor] = []
        self._reducers: list[Actor] = []
        self._calls: dict[Any, Call] = {}
        self._waiting: list[Call] = []
        self._transit = Transit(config, room_bytes=0)
        self._deployed: dict[str, tuple[Any, Any]] = {}
        self._shard_sizes: dict[str, int] = {}
        self._compile_s = 0.0
        self._progress_at = 0.0

    def devices(self) -> tuple[DevicePlan, ...]:
        # In the nodes' order, so that device names stand for the same ones in every run.
        return plan_devices(self._config.devices, live_nodes(), auto_kinds(self._config))

    def start(
        self, model: Source, calibration: Calibration | None = None
    ) -> tuple[DeviceReady, ...]:
        self._launch()
        self._await_starts()
        deployments = {actor.name: self._deployment(actor, model) for actor in self._workers}
        artifacts = self._compile(model, deployments, calibration)
        self._deployed = {
            name: (deployment.spec, artifacts[deployment.order])
            for name, deployment in deployments.items()
        }
        for actor in self._workers:
            actor.begin(*self._deployed[actor.name])
        self._await_starts()
        ready = tuple(actor.ready for actor in self._workers if actor.ready)
        self._shard_sizes = {device.plan.name: device.shard_size for device in ready}
        room_bytes = min(node.object_store_bytes for node in live_nodes())
        self._transit = Transit(self._config, room_bytes, max(self._shard_sizes.values()))
        return ready

    def compile_s(self) -> float:
        return self._compile_s

    def sweep(self, device: str, batch_size: int, least_s: float) -> tuple[int, ...]:
        (actor,) = (worker for worker in self._workers if worker.name == device)
        answer = self._ask_long(actor, actor.handle.sweep.remote(batch_size, least_s))
        durations_ns: tuple[int, ...] = answer
        return durations_ns

    def run(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        work = Work(read_ahead(shards), self._shard_sizes)
        self._progress_at = monotonic()
        while True:
            self._reduce()
            self._dispatch(work)
            if not self._calls and not self._waiting and not work.is_left():
                return
            self._check_progress()
            yield from self._next_event(work)

    def memory(self) -> Memory:
        peaks = ask(self._actors(), "peak_rss_bytes", _QUESTION_TIMEOUT_S)
        return Memory({"driver": peak_rss_bytes(), **peaks}, self._transit.peak_bytes)

    def faults(self) -> Faults:
        return collect_faults({actor.name: actor.health for actor in self._actors()})

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            connect()
            self._owns_ray = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ask(self._workers, "close", _CLOSE_TIMEOUT_S)
        for actor in self._actors():
            actor.end()
        if self._owns_ray:
            ray.shutdown()

    def _actors(self) -> Sequence[Actor]:
        return (*self._workers, *self._reducers)

    def _launch(self) -> None:
        self._workers = [
            Actor(
                plan.name, partial(create_worker, plan), Health(self._config.deadline_s), plan=plan
            )
            for plan in self.devices()
        ]
        self._reducers = [
            Actor(f"reducer:{index}", create_reducer, Health(self._config.deadline_s))
            for index in range(self._config.reducers if self._config.gather == "maps" else 0)
        ]
        # All at once: devices load and warm up side by side.
        for actor in self._actors():
            actor.launch()

    def _deployment(self, actor: Actor, model: Source) -> Deployment:
        # Both are there once the actor is in its place.
        plan, place = cast("DevicePlan", actor.plan), cast("Place", actor.place)
        found = replace(plan, device_id=place.device_id)
        return deploy(self._config, found, place.installed, model.format)

    def _compile(
        self,
        model: Source,
        deployments: Mapping[str, Deployment],
        calibration: Calibration | None,
    ) -> dict[Order, Any]:
        """Returns references to the artifacts by order."""
        start = monotonic()
        artifacts: dict[Order, Any] = {}
        for actor in self._workers:
            order = deployments[actor.name].order
            if order not in artifacts:
                source = portable(model, order)
                if needs_device(source, order):
                    content = self._ask_long(actor, actor.handle.compile.remote(source, order))
                else:
                    content = compile_model(source, order, calibration).content
                artifacts[order] = ray.put(content)
        self._compile_s = monotonic() - start
        return artifacts

    def _ask_long(self, actor: Actor, reference: Any) -> Any:
        """Returns the answer of a call that may take long, before there is work to lose."""
        done, _ = ray.wait([reference], timeout=_LONG_TIMEOUT_S)
        if not done:
            raise SetupError(f"no answer within {_LONG_TIMEOUT_S:.0f} s", device=actor.name)
        answer = fetch(reference)
        if not isinstance(answer, Trouble):
            return answer
        if isinstance(answer.error, PoseEvalError):
            answer.error.device = actor.name
            raise answer.error
        raise SetupError(answer.reason, device=actor.name)

    def _await_starts(self) -> None:
        while any(actor.starting for actor in self._actors()):
            self._await_start()

    def _await_start(self) -> None:
        """Waits for one of the starting actors.

        Fewer devices than were asked for are not what was asked for, and nothing is lost yet.
        """
        starting = {actor.starting: actor for actor in self._actors() if actor.starting}
        done = self._wait([*starting])
        for actor in [starting[reference] for reference in done]:
            self._finish_start(actor)
        for actor in starting.values():
            if actor.starting and actor.is_overdue():
                raise SetupError(
                    f"not ready within {actor.start_deadline_s:.0f} s",
                    "are its CPUs or the device taken by another job? see `ray status`",
                    device=actor.name,
                )
            if actor.health.is_out:
                raise SetupError(actor.health.faults[-1], device=actor.name)

    def _finish_start(self, actor: Actor) -> None:
        answer = fetch(actor.starting)
        if isinstance(answer, Place):
            self._find_place(actor, answer)
        elif not isinstance(answer, Trouble):
            actor.started(answer)
        elif isinstance(answer.error, SetupError) and actor.ready is None:
            raise answer.error
        else:
            self._restart(actor, answer.reason)

    def _find_place(self, actor: Actor, place: Place) -> None:
        """Has a process work as the device that Ray gave it, which may be another's than meant."""
        owner = owner_of(place, actor, self._workers, live_nodes())
        if owner is None:
            actor.hold()
            return
        if owner is not actor:
            actor.exchange(owner)
        owner.placed(place)
        if owner.name in self._deployed:
            owner.begin(*self._deployed[owner.name])

    def _wait(self, references: list[Any]) -> list[Any]:
        """Returns a reference that is done, or nothing at the next deadline."""
        now = monotonic()
        deadlines = [call.deadline_at for call in self._calls.values()]
        deadlines += [actor.start_deadline_at for actor in self._actors() if actor.starting]
        timeout_s = max(0.0, min(deadlines, default=now) - now)
        done, _ = ray.wait(references, timeout=timeout_s)
        return list(done)

    def _next_event(self, work: Work) -> Iterator[ShardResult]:
        starting = {actor.starting: actor for actor in self._actors() if actor.starting}
        for reference in self._wait([*self._calls, *starting]):
            if call := self._calls.get(reference):
                yield from self._finish(work, call)
            else:
                self._finish_start(starting[reference])
        yield from self._expire(work)

    def _finish(self, work: Work, call: Call) -> Iterator[ShardResult]:
        """Deals with the answer of a call, whatever it is."""
        answer = call.answer()
        if isinstance(answer, Trouble):
            if answer.is_lost_input:
                # Its maps went with the node that made them; the one who wanted them is well.
                self._forget(call)
                yield from self._fail(work, call, answer.reason)
            else:
                blamed = [call] if answer.error else [*call.actor.calls]
                yield from self._fault(work, call.actor, answer.reason, blamed)
            return
        self._forget(call)
        call.actor.health.success(monotonic() - call.since)
        self._progress_at = monotonic()
        if call.maps is not None and call.report is None:
            call.report = answer
            self._transit.arrived(call.load, answer.maps_bytes)
            self._waiting.append(call)
            return
        self._transit.left(call.load)
        reduction, report = (answer, call.report) if call.report else answer
        call.task.is_done = True
        yield shard_result(call.device, call.task.shard, report, reduction)

    def _forget(self, call: Call) -> None:
        del self._calls[call.reference]
        call.actor.calls.remove(call)

    def _fail(self, work: Work, call: Call, reason: str) -> Iterator[ShardResult]:
        self._transit.left(call.load)
        if failures := work.fail(call.task, call.actor.name, reason):
            yield failed_result(call.device, failures)

    def _fault(
        self, work: Work, actor: Actor, reason: str, blamed: Sequence[Call]
    ) -> Iterator[ShardResult]:
        """Starts an actor anew, or takes it out, and has its shards tried again."""
        is_suspect = any(call.task.is_suspect for call in blamed)
        node_left = self._restart(actor, reason, is_suspect=is_suspect)
        for call in [*actor.calls]:
            self._forget(call)
            if call in blamed and not node_left:
                yield from self._fail(work, call, reason)
            else:
                self._transit.left(call.load)
                work.put_back(call.task)

    def _restart(self, actor: Actor, reason: str, *, is_suspect: bool = False) -> bool:
        """Starts an actor anew or takes it out, and returns whether its node has left."""
        gone = bool(actor.node_id) and not is_alive(actor.node_id)
        actor.end()
        reason = f"its node left: {reason}" if gone else reason
        actor.health.fault(reason, final=gone, is_suspect=is_suspect)
        _LOG.warning("%s: %s", actor.name, reason)
        if not actor.health.is_out:
            actor.launch()
        return gone

    def _expire(self, work: Work) -> Iterator[ShardResult]:
        """Deals with what passes its deadline."""
        for call in [call for call in self._calls.values() if call.is_overdue()]:
            # Another call of the same actor may have taken it along.
            if call.reference not in self._calls:
                continue
            if not call.is_late:
                call.is_late = True
                work.put_back(call.task)
            else:
                yield from self._fault(work, call.actor, self._hang(call), [call])
        for actor in self._actors():
            if actor.starting and actor.is_overdue():
                self._restart(actor, f"not ready within {actor.start_deadline_s:.0f} s")

    def _hang(self, call: Call) -> str:
        doing = ask([call.actor], "doing", _QUESTION_TIMEOUT_S)
        where = doing.get(call.actor.name, "its process does not answer questions either")
        return f"no answer for {monotonic() - call.since:.0f} s: {where}"

    def _check_progress(self) -> None:
        for kind, actors in (("device", self._workers), ("reducer", self._reducers)):
            if actors and all(actor.health.is_out for actor in actors):
                raise none_left(kind, {actor.name: actor.health for actor in actors})
        limit_s = _STALL_FACTOR * max(
            max(actor.health.deadline_s, actor.start_deadline_s) for actor in self._actors()
        )
        if monotonic() - self._progress_at > limit_s:
            raise ExecutionError(f"no result for {limit_s:.0f} s: {self._diagnosis()}")

    def _diagnosis(self) -> str:
        doing = ask(self._actors(), "doing", _QUESTION_TIMEOUT_S)
        return "; ".join(
            f"{actor.name} {actor.describe()}, {doing.get(actor.name, 'does not answer')}"
            for actor in self._actors()
        )

    def _dispatch(self, work: Work) -> None:
        """Gives shards to workers that have room, unless the reducers are behind."""
        usable = [worker.name for worker in self._workers if not worker.health.is_out]
        while len(self._waiting) < len(self._workers):
            free = [worker for worker in self._workers if worker.has_room(IN_FLIGHT)]
            for actor in sorted(free, key=lambda worker: len(worker.calls)):
                idle = not actor.calls
                if task := work.take(actor.name, usable, self._transit.has_room, is_idle=idle):
                    load = self._transit.entered(task.shard)
                    self._call(Call.infer(actor, task, load, gather=self._config.gather))
                    break
            else:
                return

    def _reduce(self) -> None:
        """Gives finished maps to reducers that have room."""
        while self._waiting:
            in_flight = 1 if self._waiting[0].task.is_suspect else IN_FLIGHT
            free = [reducer for reducer in self._reducers if reducer.has_room(in_flight)]
            if not free:
                return
            actor = min(free, key=lambda reducer: len(reducer.calls))
            self._call(Call.reduce(actor, self._waiting.pop(0)))

    def _call(self, call: Call) -> None:
        call.actor.calls.append(call)
        self._calls[call.reference] = call
