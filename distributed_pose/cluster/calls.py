"""The driver's view of its actors, and its calls to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Self, TypeVar

import ray

from distributed_pose.cluster.actors import Create, DeviceAssignment
from distributed_pose.cluster.answers import CallFailure, fetch
from distributed_pose.cluster.backpressure import Reservation
from distributed_pose.data.shards import pack_images
from distributed_pose.engine.health import Health
from distributed_pose.engine.readings import ReadingsByProcess
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.results import check_reduction, check_report
from distributed_pose.engine.task_queue import Task
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.errors import ExecutionError
from distributed_pose.records.devices import DevicePlan, DeviceReady, WorkerSpec
from distributed_pose.records.shards import ShardTimes

# Loading and warming up a model takes seconds; a process that takes minutes waits for CPUs that it
# never gets.
_FIRST_START_S = 300.0
_START_FACTOR = 10


_T = TypeVar("_T")


@dataclass(eq=False)
class Actor:
    """A worker or reducer: its current process, and the health of all processes that it has had.

    Attributes:
        name: name in messages, such as `cpu:0`.
        create: function that starts a process.
        health: faults and times of all processes that the actor has had.
        plan: plan of the worker's device; None for reducers, which can run on any node.
        handle: Ray handle of the current process; None if there is none.
        starting: reference to the last call of a process that is not ready yet; None otherwise.
        place: device that Ray gave the worker's process; None until the process reports it.
        held: handles of processes that Ray gave other devices, kept until this actor has its own.
        ready: latest description of the device by a process that became ready; None before.
        calls: calls in flight.
        readings: readings of the worker's device and machine by all of its processes.
    """

    name: str
    create: Create
    health: Health
    plan: DevicePlan | None = None
    handle: Any = None
    starting: Any = None
    place: DeviceAssignment | None = None
    held: list[Any] = field(default_factory=list)
    ready: DeviceReady | None = None
    calls: list["Call"] = field(default_factory=list)
    readings: ReadingsByProcess = field(default_factory=ReadingsByProcess)
    _since: float = 0.0
    _launch_s: float = 0.0
    _start_s: float | None = None

    def launch(self) -> None:
        """Starts a process for the actor."""
        self.handle, self.starting = self.create()
        self.place = None
        self._since = monotonic()

    def park(self) -> None:
        """Keeps the process and starts another, which then gets another device."""
        self.held.append(self.handle)
        self.launch()

    def swap_process(self, other: "Actor") -> None:
        """Exchanges processes with another actor that is starting."""
        for name in ("handle", "starting", "place"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)

    def assign(self, place: DeviceAssignment) -> None:
        """Records the device that the process was given, and ends the processes that are held."""
        self.place, self.starting = place, None
        self._launch_s = max(self._launch_s, self.waited_s)
        if self.plan:
            self.plan = replace(self.plan, device_id=place.device_id)
        self._release()

    def begin(self, spec: WorkerSpec, model: Any) -> None:
        """Makes a process that is assigned to its device load a model.

        Args:
            spec: specification of the worker.
            model: reference to the artifact's content.
        """
        if self.ready:
            spec = replace(spec, best_batch_size=self.ready.shard_size)
        self.starting = self.handle.start.remote(spec, model)
        self._since = monotonic()

    @property
    def has_started(self) -> bool:
        """Whether any process of the actor has been ready."""
        return self._start_s is not None

    def started(self, ready: DeviceReady | None) -> None:
        """Records that the process is ready.

        Args:
            ready: description of a worker's device; None for reducers.
        """
        self.starting = None
        self._start_s = max(self._start_s or 0.0, monotonic() - self._since)
        if ready:
            self.ready = ready
            self.health.expect(ready.batch_ns / 1e9)

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self.handle is not None:
            ray.kill(self.handle)
        self.handle = self.starting = self.place = None
        self.readings.end_process()
        self._release()

    def _release(self) -> None:
        for handle in self.held:
            ray.kill(handle)
        self.held.clear()

    @property
    def node_id(self) -> str:
        """Id of the node that the actor must run on; empty for any node."""
        return self.plan.node_id if self.plan else ""

    @property
    def node_address(self) -> str:
        """Address of the node that the actor must run on, for messages."""
        return self.plan.node if self.plan else "chosen by Ray"

    def has_room(self, in_flight: int) -> bool:
        """Returns whether the actor can take another call.

        An actor takes no other call beside one that is late or whose task is suspect.

        Args:
            in_flight: largest number of calls in flight.
        """
        alone = any(call.is_late or call.task.is_suspect for call in self.calls)
        return bool(self.handle) and not self.starting and not alone and len(self.calls) < in_flight

    @property
    def waited_s(self) -> float:
        """Time since the process began its current step of starting, in seconds."""
        return monotonic() - self._since

    @property
    def start_deadline_s(self) -> float:
        """Longest time that a process may take to become ready, in seconds."""
        if self._start_s is None:
            return max(_FIRST_START_S, self.health.floor_s)
        # Before a process can load its model, it must be started, and the process that it replaces
        # must have ended: Ray takes 5 s to end a stopped process.
        return self.health.floor_s + _START_FACTOR * max(self._launch_s, self._start_s)

    @property
    def start_deadline_at(self) -> float:
        """Time by which a starting process must be ready, in seconds of the monotonic clock."""
        return self._since + self.start_deadline_s

    def is_overdue(self) -> bool:
        """Returns whether a starting process has passed its deadline."""
        return monotonic() > self.start_deadline_at

    def describe(self) -> str:
        """Returns the state of the actor as the driver knows it, for messages."""
        now = monotonic()
        if self.health.is_excluded:
            return "is excluded"
        if self.starting:
            return f"has been starting for {now - self._since:.0f} s"
        if self.calls:
            number, since = self.calls[0].task.shard.number, self.calls[0].since
            return f"has had shard {number} for {now - since:.0f} s"
        return "is idle"


@dataclass(eq=False)
class Call:
    """A shard at a worker, or the maps of a shard at a reducer.

    Attributes:
        actor: actor that works on the call.
        task: task with the shard.
        load: memory reserved for the shard and its maps.
        device: name of the worker that has or had the shard.
        reference: reference to the answer. A worker answers with its report, or with a pair of
            reduction and report where it groups its maps; a reducer answers with its reduction.
        maps: reference to the maps; None where the worker groups them.
        limit_s: time until the shard is also given to another device, in seconds. After twice the
            time the actor is ended.
        report: report of the worker; None until it has arrived.
        is_late: whether the task was also given to another device.
        since: time at which the call was made, in seconds of the monotonic clock.
        inferred: times between which a worker had the shard; None until the worker has answered.
    """

    actor: Actor
    task: Task
    load: Reservation
    device: str
    reference: Any
    maps: Any
    limit_s: float
    report: WorkerReport | None = None
    is_late: bool = False
    since: float = field(default_factory=monotonic)
    inferred: tuple[float, float] | None = None

    @classmethod
    def infer(cls, actor: Actor, task: Task, load: Reservation, *, gather: str) -> Self:
        """Gives a shard to a worker, and returns the call.

        Args:
            actor: worker that has room.
            task: task with the shard.
            load: memory reserved for the shard.
            gather: `maps` if reducers group the maps; `poses` if the worker does.
        """
        # Maps stay on their node until a reducer fetches them; the driver gets the report alone.
        process = actor.handle.process.options(num_returns=2 if gather == "maps" else 1)
        answer = process.remote(pack_images(task.shard.images))
        maps, reference = answer if gather == "maps" else (None, answer)
        return cls(actor, task, load, actor.name, reference, maps, _limit_s(actor))

    @classmethod
    def reduce(cls, actor: Actor, inferred: "Call") -> Self:
        """Gives the maps of a finished worker's call to a reducer, and returns the new call.

        Args:
            actor: reducer that has room.
            inferred: call of the worker, with its report.
        """
        image_ids = inferred.report.image_ids if inferred.report else ()
        reference = actor.handle.reduce.remote(inferred.maps, image_ids)
        return cls(
            actor,
            inferred.task,
            inferred.load,
            inferred.device,
            reference,
            inferred.maps,
            _limit_s(actor),
            inferred.report,
            inferred=inferred.inferred,
        )

    def times(self, now: float, batches: tuple[tuple[int, ...], ...]) -> ShardTimes:
        """Returns the times of the shard, whose last call this is.

        Args:
            now: time of the answer, in seconds of the monotonic clock.
            batches: times of the shard's batches; see `ShardTimes`.
        """
        if self.inferred is None:
            return ShardTimes(self.since, now, batches=batches)
        return ShardTimes(*self.inferred, self.actor.name, self.since, now, batches)

    @property
    def deadline_at(self) -> float:
        """Time at which a missing answer has consequences, in seconds of the monotonic clock.

        The shard is then given to another device or, if the call is late already, the actor is
        ended.
        """
        return self.since + self.limit_s * (2 if self.is_late else 1)

    def checked(self, answer: Any) -> Any:
        """Returns an answer, or a `CallFailure` if it is not for the images of the call."""
        if isinstance(answer, CallFailure):
            return answer
        try:
            self._check(answer)
        except ExecutionError as error:
            return CallFailure(error.message, error)
        return answer

    def _check(self, answer: Any) -> None:
        if self.report:
            check_reduction(self.report, _as(Reduction, answer))
        elif self.maps is not None:
            check_report(self.task.shard, _as(WorkerReport, answer))
        else:
            reduction, report = _as(tuple, answer)
            check_report(self.task.shard, _as(WorkerReport, report))
            check_reduction(report, _as(Reduction, reduction))


def ask(actors: Sequence[Actor], question: str, timeout_s: float) -> dict[str, Any]:
    """Returns the answers of actors to a question, by actor name.

    Actors without a process, and those that fail or do not answer in time, are left out.

    Args:
        actors: actors to ask.
        question: name of an actor method without arguments.
        timeout_s: time limit for all actors together, in seconds.
    """
    asked = {
        getattr(actor.handle, question).remote(): actor.name
        for actor in actors
        if actor.handle is not None
    }
    if not asked:
        return {}
    done, _ = ray.wait([*asked], num_returns=len(asked), timeout=timeout_s)
    answers = {asked[reference]: fetch(reference) for reference in done}
    return {name: a for name, a in answers.items() if not isinstance(a, CallFailure)}


def _as(expected: type[_T], answer: Any) -> _T:
    """Returns an answer after checking its type.

    Raises:
        ExecutionError: if the answer has another type than expected.
    """
    if not isinstance(answer, expected):
        raise ExecutionError(f"answered with {type(answer).__name__} instead of a result")
    return answer


def _limit_s(actor: Actor) -> float:
    # Calls of the same actor wait for each other.
    return actor.health.deadline_s * (1 + len(actor.calls))
