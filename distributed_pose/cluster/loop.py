"""The dispatch loop: gives shards to workers and maps to reducers, and takes results as they come.

The work per result grows neither with the number of images nor with that of devices. Only a fault
makes the loop look at every actor.

Every wait has a deadline. When a call passes its deadline, its shard is given to another device as
well. After twice the time, the actor of the call is ended and restarted. An actor whose process
dies is restarted, too.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from distributed_pose.cluster.answers import CallFailure
from distributed_pose.cluster.backpressure import InFlightBudget
from distributed_pose.cluster.calls import Actor, Call, ask
from distributed_pose.cluster.protocols import Answers, Pool
from distributed_pose.cluster.schedule import Deadlines, FreeActors
from distributed_pose.data.shards import Shard
from distributed_pose.engine.dispatch import IN_FLIGHT
from distributed_pose.engine.health import none_left
from distributed_pose.engine.results import failed_result, shard_result, with_failures
from distributed_pose.engine.settling import device_to_exclude, settle
from distributed_pose.engine.steps import is_milestone
from distributed_pose.engine.task_queue import Task, TaskQueue
from distributed_pose.errors import ExecutionError
from distributed_pose.records.shards import ShardResult

_LOG = logging.getLogger(__name__)

# Known faults are handled long before this limit, which is for all others.
_STALL_FACTOR = 10

_QUESTION_TIMEOUT_S = 2.0

# The progress is checked this often, and after each fault.
_CHECK_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DispatchSettings:
    """How shards are given to workers.

    Attributes:
        gather: `maps` if reducers group the maps; `poses` if workers do.
        in_flight: largest number of calls in flight, by device name.
    """

    gather: str
    in_flight: Mapping[str, int]


class DispatchLoop:
    """Runs the tasks of a queue on the actors of a pool.

    Args:
        pool: workers and reducers, all of which are ready.
        queue: tasks of the run.
        budget: budget for the bytes in flight.
        answers: awaits and fetches the answers of actors.
        settings: how shards are given to workers.
    """

    def __init__(
        self,
        pool: Pool,
        queue: TaskQueue,
        budget: InFlightBudget,
        answers: Answers,
        settings: DispatchSettings,
    ) -> None:
        self._pool, self._queue, self._budget = pool, queue, budget
        self._answers, self._settings = answers, settings
        self._workers = {worker.name: worker for worker in pool.workers}
        self._health = {worker.name: worker.health for worker in pool.workers}
        self._usable = [*self._health]
        self._free = FreeActors(pool.workers)
        self._free_reducers = FreeActors(pool.reducers)
        self._deadlines = Deadlines()
        self._calls: dict[Any, Call] = {}
        self._waiting: deque[Call] = deque()
        self._is_full = False
        self._num_changes = 0
        self._check_at = 0.0
        self._num_sent = 0
        self._progress_at = monotonic()

    def results(self) -> Iterator[list[ShardResult]]:
        """Yields the results as they come; each wait takes all that are available.

        Raises:
            ExecutionError: if no device is left, or the run makes no progress.
        """
        while not self._pool.is_stopped:
            self._reduce()
            self._dispatch()
            if not self._calls and not self._waiting and not self._queue.has_pending():
                return
            self._check_progress()
            if results := [*self._next_events()]:
                yield results

    def _next_events(self) -> Iterator[ShardResult]:
        starting = self._pool.starting
        starts_at = min((actor.start_deadline_at for actor in starting.values()), default=None)
        deadlines = [at for at in (self._deadlines.next_at, starts_at) if at is not None]
        done = self._answers.wait([*self._calls, *starting], min(deadlines, default=None))
        calls = [call for reference in done if (call := self._calls.get(reference))]
        answers = self._answers.fetch([call.reference for call in calls])
        checked = [call.checked(answer) for call, answer in zip(calls, answers, strict=True)]
        pairs = zip(calls, checked, strict=True)
        # Results come before failures, which take all calls from their actor.
        for call, answer in sorted(pairs, key=lambda pair: isinstance(pair[1], CallFailure)):
            if call.reference in self._calls:
                yield from self._finish(call, answer)
        for actor in [starting[reference] for reference in done if reference in starting]:
            self._pool.finish_start(actor)
            self._offer(actor)
        yield from self._expire()

    def _finish(self, call: Call, answer: Any) -> Iterator[ShardResult]:
        """Handles the answer of a call: a result, a report or a failure."""
        if isinstance(answer, CallFailure):
            yield from self._finish_failed(call, answer)
            return
        self._forget(call)
        now = monotonic()
        call.actor.health.success(now - call.since)
        self._progress_at = now
        if call.maps is not None and call.report is None:
            call.actor.readings.update(answer.readings)
            call.inferred, call.report = (call.since, now), answer
            self._budget.add(call.load, answer.maps_bytes)
            self._waiting.append(call)
            return
        self._budget.release(call.load)
        if call.report:
            reduction, report = answer, call.report
        else:
            reduction, report = answer
            call.actor.readings.update(report.readings)
        times = call.times(now, report.batches)
        report = with_failures(call.task.shard, report, reduction)
        settled = settle(self._queue, call.task, call.device, report, self._health)
        yield shard_result(call.device, call.task.shard, settled, reduction, times)
        yield from self._exclude(device_to_exclude(call.task, self._health))

    def _finish_failed(self, call: Call, failure: CallFailure) -> Iterator[ShardResult]:
        if failure.is_lost_input:
            # The maps were lost with the node that made them; the reducer is not at fault.
            self._forget(call)
            yield from self._fail(call, failure.reason)
        elif failure.is_foreign_input:
            self._forget(call)
            yield from self._fault(self._workers[call.device], failure.reason, [])
            yield from self._fail(call, failure.reason)
        else:
            blamed = [call] if failure.error else [*call.actor.calls]
            yield from self._fault(call.actor, failure.reason, blamed)

    def _exclude(self, name: str) -> Iterator[ShardResult]:
        """Excludes the named device, which cannot read images that others can.

        Args:
            name: name of the device; empty for none.
        """
        if name:
            actor = self._workers[name]
            yield from self._fault(actor, actor.health.refusal_summary, [], final=True)
            self._queue.exclude(name)

    def _forget(self, call: Call) -> None:
        del self._calls[call.reference]
        call.actor.calls.remove(call)
        self._deadlines.remove(call)
        self._offer(call.actor)

    def _offer(self, actor: Actor) -> None:
        (self._free if actor.name in self._workers else self._free_reducers).offer(actor)

    def _fail(self, call: Call, reason: str) -> Iterator[ShardResult]:
        self._budget.release(call.load)
        _LOG.info("%s failed with a shard: %s", call.actor.name, reason)
        if failures := self._queue.fail(call.task, call.actor.name, reason):
            yield failed_result(call.device, failures)

    def _fault(
        self, actor: Actor, reason: str, blamed: Sequence[Call], *, final: bool = False
    ) -> Iterator[ShardResult]:
        """Restarts or excludes an actor, and returns its shards to the queue.

        Args:
            actor: actor whose process failed.
            reason: description of the fault, in one line.
            blamed: calls that may have caused the fault. Their tasks count it as a failed attempt,
                unless the node of the actor has left.
            final: whether the actor is excluded and never restarted.
        """
        is_suspect = any(call.task.is_suspect for call in blamed)
        node_left = self._pool.restart(actor, reason, is_suspect=is_suspect, final=final)
        self._look_at_all()
        for call in [*actor.calls]:
            self._forget(call)
            if call in blamed and not node_left:
                yield from self._fail(call, reason)
            else:
                self._budget.release(call.load)
                self._queue.requeue(call.task)

    def _look_at_all(self) -> None:
        """Updates the usable devices after a fault, and offers tasks to all actors again."""
        self._usable = [name for name, one in self._health.items() if not one.is_excluded]
        self._free.offer_rejected()
        self._check_at = 0.0

    def _expire(self) -> Iterator[ShardResult]:
        """Handles the calls and the starting actors that pass their deadlines."""
        now = monotonic()
        overdue = self._deadlines.passed(now)
        hanging = [call for call in overdue if call.is_late]
        for call in overdue:
            if not call.is_late:
                call.is_late = True
                _LOG.info("%s is late; its shard is also given to another device", call.actor.name)
                self._deadlines.add(call)
                self._queue.repeat(call.task, call.actor.name)
        # All actors are asked at once, since the driver does nothing else until the time to answer
        # has passed.
        doing = ask([call.actor for call in hanging], "doing", _QUESTION_TIMEOUT_S)
        for call in hanging:
            # A fault of another call of the same actor may have removed the call already.
            if call.reference in self._calls:
                yield from self._fault(call.actor, _hang(call, doing), [call])
        for actor in [*self._pool.starting.values()]:
            if actor.is_overdue():
                self._pool.restart(actor, f"not ready within {actor.start_deadline_s:.0f} s")
                self._look_at_all()

    def _check_progress(self) -> None:
        now = monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY_S
        workers, reducers = self._pool.workers, self._pool.reducers
        for kind, actors in (("device", workers), ("reducer", reducers)):
            if actors and all(actor.health.is_excluded for actor in actors):
                raise none_left(kind, {actor.name: actor.health for actor in actors})
        actors = (*workers, *reducers)
        limit_s = _STALL_FACTOR * max(
            max(actor.health.deadline_s, actor.start_deadline_s) for actor in actors
        )
        if now - self._progress_at > limit_s:
            raise ExecutionError(f"no result for {limit_s:.0f} s: {_diagnosis(actors)}")

    def _dispatch(self) -> None:
        """Gives shards to workers that have room, unless the reducers are behind."""
        if self._num_changes != self._queue.num_changes:
            self._num_changes = self._queue.num_changes
            self._free.offer_rejected()
        self._is_full = False
        while len(self._waiting) < len(self._workers) and (actor := self._free.take()):
            if not actor.has_room(self._settings.in_flight[actor.name]):
                continue
            idle = not actor.calls
            if task := self._queue.take(actor.name, self._usable, self._fits, is_idle=idle):
                self._send(actor, task)
            elif self._is_full:
                # The room is for all devices, so the others need not be tried either.
                self._free.offer(actor)
                return
            else:
                self._free.reject(actor)

    def _fits(self, shard: Shard) -> bool:
        fits = self._budget.has_room(shard)
        self._is_full |= not fits
        return fits

    def _send(self, actor: Actor, task: Task) -> None:
        load = self._budget.reserve(task.shard)
        self._num_sent += 1
        if is_milestone(self._num_sent):
            _LOG.info("sent %d shards, the last one to %s", self._num_sent, actor.name)
        self._add(Call.infer(actor, task, load, gather=self._settings.gather))

    def _reduce(self) -> None:
        """Gives finished maps to reducers that have room."""
        while self._waiting and (actor := self._free_reducers.take()):
            if not actor.has_room(IN_FLIGHT):
                continue
            if self._waiting[0].task.is_suspect and actor.calls:
                self._free_reducers.offer(actor)
                return
            self._add(Call.reduce(actor, self._waiting.popleft()))

    def _add(self, call: Call) -> None:
        call.actor.calls.append(call)
        self._calls[call.reference] = call
        self._deadlines.add(call)
        self._offer(call.actor)


def _diagnosis(actors: Sequence[Actor]) -> str:
    doing = ask(actors, "doing", _QUESTION_TIMEOUT_S)
    return "; ".join(
        f"{actor.name} {actor.describe()}, {doing.get(actor.name, 'does not answer')}"
        for actor in actors
    )


def _hang(call: Call, doing: Mapping[str, str]) -> str:
    where = doing.get(call.actor.name, "its process does not answer questions either")
    return f"no answer for {monotonic() - call.since:.0f} s: {where}"
