"""Actors as the driver sees them, and its calls to them."""

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
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.results import check_reduction, check_report
from distributed_pose.engine.task_queue import Task
from distributed_pose.engine.worker import WorkerReport
from distributed_pose.errors import ExecutionError
from distributed_pose.records import DevicePlan, DeviceReady, WorkerSpec

# Loading and warming up a model takes seconds; what takes minutes waits for CPUs it never gets.
_FIRST_START_S = 300.0
_START_FACTOR = 10


_T = TypeVar("_T")


@dataclass(eq=False)
class Actor:
    """A worker or reducer: the process that is it now, and how all of them have done.

    Attributes:
        name: in messages, such as `cpu:0`.
        create: starts a process.
        health: of all of its processes.
        plan: of a worker's device; None for reducers, which can be anywhere.
        handle: of the process; None where there is none.
        starting: the last call of a process that is not ready yet.
        place: where a worker's process found itself.
        held: processes that Ray gave other devices than this one, kept until it has its own.
        ready: what the device said when it was first ready.
        calls: in flight.
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
    _since: float = 0.0
    _launch_s: float = 0.0
    _start_s: float | None = None

    def launch(self) -> None:
        """Starts a process."""
        self.handle, self.starting = self.create()
        self.place = None
        self._since = monotonic()

    def park(self) -> None:
        """Keeps the process, so that the next one gets another device, and starts that one."""
        self.held.append(self.handle)
        self.launch()

    def swap_process(self, other: "Actor") -> None:
        """Changes processes with an actor that is starting, too."""
        for name in ("handle", "starting", "place"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)

    def assign(self, place: DeviceAssignment) -> None:
        """Takes the answer of a process that has found its device."""
        self.place, self.starting = place, None
        self._launch_s = max(self._launch_s, self.waited_s)
        if self.plan:
            self.plan = replace(self.plan, device_id=place.device_id)
        self._release()

    def begin(self, spec: WorkerSpec, model: Any) -> None:
        """Has a process that is in its place load a model.

        Args:
            spec: of the worker.
            model: reference to the artifact's content.
        """
        if self.ready:
            spec = replace(spec, best_batch_size=self.ready.shard_size)
        self.starting = self.handle.start.remote(spec, model)
        self._since = monotonic()

    @property
    def has_started(self) -> bool:
        """Whether one of its processes was ready before."""
        return self._start_s is not None

    def started(self, ready: DeviceReady | None) -> None:
        """Takes the answer of a process that is ready."""
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
        self._release()

    def _release(self) -> None:
        for handle in self.held:
            ray.kill(handle)
        self.held.clear()

    @property
    def node_id(self) -> str:
        """Where the actor must be; empty for anywhere."""
        return self.plan.node_id if self.plan else ""

    @property
    def node_address(self) -> str:
        """Address of that node, for messages."""
        return self.plan.node if self.plan else "of its own choice"

    def has_room(self, in_flight: int) -> bool:
        """Returns whether the actor can take another call."""
        alone = any(call.is_late or call.task.is_suspect for call in self.calls)
        return bool(self.handle) and not self.starting and not alone and len(self.calls) < in_flight

    @property
    def waited_s(self) -> float:
        """How long the process has been starting."""
        return monotonic() - self._since

    @property
    def start_deadline_s(self) -> float:
        """What a process may take until it is ready."""
        if self._start_s is None:
            return max(_FIRST_START_S, self.health.floor_s)
        # Before a process can load its model, it must be started, and what it replaces must have
        # ended: Ray takes 5 s to end a process that is stopped.
        return self.health.floor_s + _START_FACTOR * max(self._launch_s, self._start_s)

    @property
    def start_deadline_at(self) -> float:
        """When a process that is starting must be ready."""
        return self._since + self.start_deadline_s

    def is_overdue(self) -> bool:
        """Returns whether a process that is starting takes too long."""
        return monotonic() > self.start_deadline_at

    def describe(self) -> str:
        """Returns what the driver waits for it to do."""
        now = monotonic()
        if self.health.is_excluded:
            return "is taken out"
        if self.starting:
            return f"has been starting for {now - self._since:.0f} s"
        if self.calls:
            number, since = self.calls[0].task.shard.number, self.calls[0].since
            return f"has had shard {number} for {now - since:.0f} s"
        return "is idle"


@dataclass(eq=False)
class Call:
    """A shard at a worker, or its maps at a reducer.

    Attributes:
        actor: that has it.
        task: the shard.
        load: its bytes.
        device: name of the worker.
        reference: to the answer: a worker's report, or with it what it grouped its maps into; a
            reducer's reduction.
        maps: reference to the maps; None where the worker groups them.
        limit_s: what the call may take, and once more before its actor is ended.
        report: of the worker, once it is there.
        is_late: whether the task was given to others too.
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

    @classmethod
    def infer(cls, actor: Actor, task: Task, load: Reservation, *, gather: str) -> Self:
        """Gives a shard to a worker."""
        # Maps stay where they are until a reducer asks for them; the report alone comes here.
        process = actor.handle.process.options(num_returns=2 if gather == "maps" else 1)
        answer = process.remote(pack_images(task.shard.images))
        maps, reference = answer if gather == "maps" else (None, answer)
        return cls(actor, task, load, actor.name, reference, maps, _limit_s(actor))

    @classmethod
    def reduce(cls, actor: Actor, inferred: "Call") -> Self:
        """Gives maps to a reducer."""
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
        )

    @property
    def deadline_at(self) -> float:
        """When the next step is taken if there is no answer."""
        return self.since + self.limit_s * (2 if self.is_late else 1)

    def is_overdue(self) -> bool:
        """Returns whether the next step is to be taken."""
        return monotonic() > self.deadline_at

    def answer(self) -> Any:
        """Returns the answer of a call that is done, or a `Trouble`.

        An answer that is not for the images of the call is trouble, too.
        """
        answer = fetch(self.reference)
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
    """Returns what actors answer to a question in time, by name; some may not.

    Args:
        actors: those that have a process.
        question: name of a method without arguments.
        timeout_s: for all of them together.
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
    """Returns an answer that has the type that it should have.

    Raises:
        ExecutionError: if it has another one.
    """
    if not isinstance(answer, expected):
        raise ExecutionError(f"answered with {type(answer).__name__} instead of a result")
    return answer


def _limit_s(actor: Actor) -> float:
    # Calls at an actor wait for each other.
    return actor.health.deadline_s * (1 + len(actor.calls))
