"""The engine on Ray: device-pinned actors that pull work, and reducers as actors.

The driver hands out shards and counts results; heatmaps and PAFs go from worker to reducer
through the object store and never pass through the driver.

Every wait has a deadline. When a call passes its deadline, its shard is given to another device as
well. After twice the time, the actor of the call is ended and restarted. An actor whose process
dies is restarted, too.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic, process_time
from types import TracebackType
from typing import Any, Self

import ray

from distributed_pose.cluster.answers import CallFailure, wait
from distributed_pose.cluster.backpressure import InFlightBudget
from distributed_pose.cluster.calls import Actor, Call, ask
from distributed_pose.cluster.connection import (
    abandon,
    connect,
    live_nodes,
    ray_cpu_s,
    where,
)
from distributed_pose.cluster.fleet import ActorPool
from distributed_pose.cluster.guard import ClusterLostError, Guard, Watch
from distributed_pose.config.schema import RunConfig
from distributed_pose.data.read_ahead import read_ahead
from distributed_pose.data.shards import Shard
from distributed_pose.devices.host import peak_rss_bytes
from distributed_pose.engine.dispatch import IN_FLIGHT, batches_per_call, calls_in_flight
from distributed_pose.engine.health import Health, collect_faults, none_left
from distributed_pose.engine.results import failed_result, shard_result, with_failures
from distributed_pose.engine.settling import out_of_line, settle
from distributed_pose.engine.task_queue import TaskQueue
from distributed_pose.engine.trials import Sweep
from distributed_pose.errors import ExecutionError
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.makers import Calibration
from distributed_pose.records import (
    DevicePlan,
    DeviceReady,
    Faults,
    HostUse,
    ImagesToRead,
    Memory,
    ShardResult,
)

_LOG = logging.getLogger(__name__)

_QUESTION_TIMEOUT_S = 2.0

# Known faults are handled long before this limit; it catches those that nobody has foreseen.
_STALL_FACTOR = 10


class RayEngine:
    """Runs workers and reducers as Ray actors, on an existing cluster or on a local one."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        # Leaves the cluster that this run has joined or started; None if the process had joined
        # it before.
        self._leave: Callable[[], None] | None = None
        self._fleet = ActorPool(config)
        self._guard = Guard()
        self._calls: dict[Any, Call] = {}
        self._waiting: list[Call] = []
        self._transit = InFlightBudget(config, room_bytes=0)
        self._shard_sizes: dict[str, int] = {}
        self._slots: dict[str, int] = {}
        self._batches_a_call: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        self._progress_at = 0.0
        self._cpu_before_s: dict[str, float] = {}

    def devices(self) -> tuple[DevicePlan, ...]:
        return self._guard.call(self._fleet.devices)

    def start(
        self,
        model: ModelSource,
        calibration: Calibration | None = None,
        images: ImagesToRead | None = None,
    ) -> tuple[DeviceReady, ...]:
        ready = self._guard.call(self._fleet.start, model, calibration, images)
        self._shard_sizes = {device.plan.name: device.shard_size for device in ready}
        self._slots = {device.plan.name: device.slots for device in ready}
        self._batches_a_call = {device.plan.name: batches_per_call(device) for device in ready}
        room_bytes = min(node.object_store_bytes for node in self._guard.call(live_nodes))
        self._transit = InFlightBudget(self._config, room_bytes, max(self._shard_sizes.values()))
        return ready

    def compile_s(self) -> float:
        return self._fleet.compile_s

    def sweep(self, device: str, batch_size: int, least_s: float) -> Sweep:
        return self._guard.call(self._fleet.sweep, device, batch_size, least_s)

    def run(self, shards: Iterable[Shard], num_images: int = 0) -> Iterator[ShardResult]:
        results = self._results(shards, num_images)
        while result := self._guard.call(next, results, None):
            yield result

    def _results(self, shards: Iterable[Shard], num_images: int) -> Iterator[ShardResult]:
        batches = self._batches_a_call if num_images else {}
        self._in_flight = {
            name: calls_in_flight(slots, batches.get(name, 1))
            for name, slots in self._slots.items()
        }
        # Shards that only list their images take no time to read, so no thread reads them ahead.
        source = iter(shards) if num_images else read_ahead(shards)
        nodes = {worker.name: worker.node_id for worker in self._fleet.workers}
        work = TaskQueue(source, self._shard_sizes, batches, num_images, nodes)
        self._progress_at = monotonic()
        others_s = self._others_cpu_s()
        self._cpu_before_s = {"driver": process_time(), **others_s}
        while not self._fleet.is_stopped:
            self._reduce()
            self._dispatch(work)
            if not self._calls and not self._waiting and not work.is_left():
                return
            self._check_progress()
            yield from self._next_event(work)

    def memory(self) -> Memory:
        peaks = self._guard.call(ask, self._fleet.actors, "peak_rss_bytes", _QUESTION_TIMEOUT_S)
        return Memory({"driver": peak_rss_bytes(), **peaks}, self._transit.peak_bytes)

    def host_use(self) -> HostUse:
        return self._guard.call(self._host_use)

    def _host_use(self) -> HostUse:
        before, after = self._cpu_before_s, {"driver": process_time(), **self._others_cpu_s()}
        used = {name: after_s - before.get(name, 0.0) for name, after_s in after.items()}
        # The counter of a restarted process began at 0, so the difference can be negative.
        return HostUse(
            {name: used_s if used_s >= 0 else after[name] for name, used_s in used.items()},
            self._transit.total_bytes,
            sum(node.cpus for node in live_nodes()),
        )

    def _others_cpu_s(self) -> dict[str, float]:
        return {**ask(self._fleet.actors, "cpu_s", _QUESTION_TIMEOUT_S), "ray": ray_cpu_s()}

    def faults(self) -> Faults:
        return collect_faults({actor.name: actor.health for actor in self._fleet.actors})

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            self._leave = connect()
        self._guard.watch = Watch(where())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._fleet.is_stopped = True
        try:
            self._guard.call(self._fleet.end)
            if self._leave:
                # The cluster is left on purpose, so its silence is no longer an error.
                self._guard.watch = None
                self._guard.call(self._leave)
        except ClusterLostError as lost:
            # The error that ended the run is the better message, and finished results are kept.
            _LOG.warning("%s", lost)
            abandon()
        finally:
            self._guard.end()

    def _wait(self, references: list[Any]) -> list[Any]:
        """Returns a list of one reference that is done, or an empty one at the next deadline."""
        deadlines = [call.deadline_at for call in self._calls.values()]
        return wait(references, [*deadlines, *self._fleet.start_deadlines])

    def _next_event(self, work: TaskQueue) -> Iterator[ShardResult]:
        starting = {actor.starting: actor for actor in self._fleet.actors if actor.starting}
        for reference in self._wait([*self._calls, *starting]):
            if call := self._calls.get(reference):
                yield from self._finish(work, call)
            else:
                self._fleet.finish_start(starting[reference])
        yield from self._expire(work)

    def _finish(self, work: TaskQueue, call: Call) -> Iterator[ShardResult]:
        """Handles the answer of a call: a result, a report or a failure."""
        answer = call.answer()
        if isinstance(answer, CallFailure):
            if answer.is_lost_input:
                # The maps were lost with the node that made them; the reducer is not at fault.
                self._forget(call)
                yield from self._fail(work, call, answer.reason)
            elif answer.is_foreign_input:
                self._forget(call)
                yield from self._fault(work, self._worker(call.device), answer.reason, [])
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
            self._transit.add(call.load, answer.maps_bytes)
            self._waiting.append(call)
            return
        self._transit.release(call.load)
        reduction, report = (answer, call.report) if call.report else answer
        report = with_failures(call.task.shard, report, reduction)
        settled = settle(work, call.task, call.device, report, self._devices())
        yield shard_result(call.device, call.task.shard, settled, reduction)
        yield from self._take_out(work, out_of_line(call.task, self._devices()))

    def _take_out(self, work: TaskQueue, name: str) -> Iterator[ShardResult]:
        """Excludes the named device, which cannot read images that others can.

        Args:
            work: queue of the run.
            name: name of the device; empty for none.
        """
        if name:
            actor = self._worker(name)
            yield from self._fault(work, actor, actor.health.refusal_summary, [], final=True)
            work.exclude(name)

    def _devices(self) -> dict[str, Health]:
        return {worker.name: worker.health for worker in self._fleet.workers}

    def _worker(self, name: str) -> Actor:
        (worker,) = (worker for worker in self._fleet.workers if worker.name == name)
        return worker

    def _forget(self, call: Call) -> None:
        del self._calls[call.reference]
        call.actor.calls.remove(call)

    def _fail(self, work: TaskQueue, call: Call, reason: str) -> Iterator[ShardResult]:
        self._transit.release(call.load)
        if failures := work.fail(call.task, call.actor.name, reason):
            yield failed_result(call.device, failures)

    def _fault(
        self,
        work: TaskQueue,
        actor: Actor,
        reason: str,
        blamed: Sequence[Call],
        *,
        final: bool = False,
    ) -> Iterator[ShardResult]:
        """Restarts or excludes an actor, and returns its shards to the queue.

        Args:
            work: queue of the run.
            actor: actor whose process failed.
            reason: description of the fault, in one line.
            blamed: calls that may have caused the fault. Their tasks count it as a failed attempt,
                unless the node of the actor has left.
            final: whether the actor is excluded and never restarted.
        """
        is_suspect = any(call.task.is_suspect for call in blamed)
        node_left = self._fleet.restart(actor, reason, is_suspect=is_suspect, final=final)
        for call in [*actor.calls]:
            self._forget(call)
            if call in blamed and not node_left:
                yield from self._fail(work, call, reason)
            else:
                self._transit.release(call.load)
                work.put_back(call.task)

    def _expire(self, work: TaskQueue) -> Iterator[ShardResult]:
        """Handles the calls and the starting actors that pass their deadlines."""
        overdue = [call for call in self._calls.values() if call.is_overdue()]
        hanging = [call for call in overdue if call.is_late]
        for call in overdue:
            if not call.is_late:
                call.is_late = True
                work.put_back(call.task)
        # All actors are asked at once, since the driver does nothing else until the time to answer
        # has passed.
        doing = ask([call.actor for call in hanging], "doing", _QUESTION_TIMEOUT_S)
        for call in hanging:
            # A fault of another call of the same actor may have removed the call already.
            if call.reference in self._calls:
                yield from self._fault(work, call.actor, _hang(call, doing), [call])
        for actor in self._fleet.actors:
            if actor.starting and actor.is_overdue():
                self._fleet.restart(actor, f"not ready within {actor.start_deadline_s:.0f} s")

    def _check_progress(self) -> None:
        for kind, actors in (("device", self._fleet.workers), ("reducer", self._fleet.reducers)):
            if actors and all(actor.health.is_excluded for actor in actors):
                raise none_left(kind, {actor.name: actor.health for actor in actors})
        limit_s = _STALL_FACTOR * max(
            max(actor.health.deadline_s, actor.start_deadline_s) for actor in self._fleet.actors
        )
        if monotonic() - self._progress_at > limit_s:
            raise ExecutionError(f"no result for {limit_s:.0f} s: {self._diagnosis()}")

    def _diagnosis(self) -> str:
        doing = ask(self._fleet.actors, "doing", _QUESTION_TIMEOUT_S)
        return "; ".join(
            f"{actor.name} {actor.describe()}, {doing.get(actor.name, 'does not answer')}"
            for actor in self._fleet.actors
        )

    def _dispatch(self, work: TaskQueue) -> None:
        """Gives shards to workers that have room, unless the reducers are behind."""
        usable = [worker.name for worker in self._fleet.workers if not worker.health.is_excluded]
        while len(self._waiting) < len(self._fleet.workers):
            free = [
                worker
                for worker in self._fleet.workers
                if worker.has_room(self._in_flight[worker.name])
            ]
            for actor in sorted(free, key=lambda worker: len(worker.calls)):
                idle = not actor.calls
                if task := work.take(actor.name, usable, self._transit.has_room, is_idle=idle):
                    load = self._transit.reserve(task.shard)
                    self._call(Call.infer(actor, task, load, gather=self._config.gather))
                    break
            else:
                return

    def _reduce(self) -> None:
        """Gives finished maps to reducers that have room."""
        while self._waiting:
            in_flight = 1 if self._waiting[0].task.is_suspect else IN_FLIGHT
            free = [reducer for reducer in self._fleet.reducers if reducer.has_room(in_flight)]
            if not free:
                return
            actor = min(free, key=lambda reducer: len(reducer.calls))
            self._call(Call.reduce(actor, self._waiting.pop(0)))

    def _call(self, call: Call) -> None:
        call.actor.calls.append(call)
        self._calls[call.reference] = call


def _hang(call: Call, doing: Mapping[str, str]) -> str:
    where = doing.get(call.actor.name, "its process does not answer questions either")
    return f"no answer for {monotonic() - call.since:.0f} s: {where}"
