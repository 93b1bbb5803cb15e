"""The actors of a run: how they are started, assigned to devices, restarted and ended."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, cast

from distributed_pose.cluster.actors import DeviceAssignment, create_reducer, create_worker
from distributed_pose.cluster.answers import CallFailure, fetch, wait
from distributed_pose.cluster.artifacts import long_answer, make_artifacts
from distributed_pose.cluster.calls import Actor, ask
from distributed_pose.cluster.connection import is_alive, live_nodes
from distributed_pose.cluster.placement import match_device
from distributed_pose.cluster.start_checks import check_start, other_code
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import Selection
from distributed_pose.devices.planning import plan_devices
from distributed_pose.engine.choice import Choice, Site, warn_passed_over
from distributed_pose.engine.deployment import Deployment, chip_of, supported_kinds, usable_here
from distributed_pose.engine.health import Health
from distributed_pose.engine.kernels_beside import are_kernels_missing
from distributed_pose.engine.steps import step
from distributed_pose.engine.trials import Sweep
from distributed_pose.errors import BackendError, ExecutionError, SetupError
from distributed_pose.files.package_identity import difference
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.makers import Calibration
from distributed_pose.records.devices import DevicePlan, DeviceReady, ImagesToRead
from distributed_pose.records.facts import DataFlow

_LOG = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 5.0


class ActorPool:
    """The workers and reducers of a run.

    A worker's process is started before it is known which device of its node Ray gives it. The
    process is then assigned to the worker of that device, and only then loads a backend and a
    model.

    Attributes:
        workers: workers of the run, one per device.
        reducers: reducers of the run; empty where workers group their own maps.
        compile_s: time that the start spent on compiling, in seconds.
        is_stopped: whether the run is ending, so that no more answers are awaited.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.workers: list[Actor] = []
        self.reducers: list[Actor] = []
        self.compile_s = 0.0
        self.is_stopped = False
        # Only a fault changes it while shards are in flight, so it is not looked up per result.
        self._starting: Mapping[Any, Actor] | None = None
        self._deployments: dict[str, Deployment] = {}
        # Specification and artifact that a restarted process loads, by device name. A device has no
        # entry before its first process begins to load them.
        self._deployed: dict[str, tuple[Any, Any]] = {}

    @property
    def actors(self) -> Sequence[Actor]:
        """All workers, followed by all reducers."""
        return (*self.workers, *self.reducers)

    @property
    def starting(self) -> Mapping[Any, Actor]:
        """Actors that are not ready, by the reference to the answer that they wait for."""
        if self._starting is None:
            self._starting = {actor.starting: actor for actor in self.actors if actor.starting}
        return self._starting

    @property
    def start_deadlines(self) -> list[float]:
        """Times by which the starting actors must be ready, in seconds of the monotonic clock."""
        return [actor.start_deadline_at for actor in self.actors if actor.starting]

    def devices(self, selection: Selection) -> tuple[DevicePlan, ...]:
        """Returns the devices that a run with this selection uses."""
        # The nodes are in a fixed order, so that a name means the same device in every run.
        nodes = live_nodes()
        here = [device for node in nodes for device in node.accelerators]
        # The software on other machines is not known until processes run there.
        usable = usable_here if len(nodes) == 1 else supported_kinds
        kinds = usable(selection, here)
        return plan_devices(
            selection.devices,
            nodes,
            kinds,
            cpus=selection.cpus,
            workers=selection.workers_per_device,
        )

    def start(
        self,
        selection: Selection,
        model: ModelSource,
        calibration: Calibration | None,
        images: ImagesToRead | None = None,
    ) -> tuple[DeviceReady, ...]:
        """Starts every device, and returns their descriptions once all are ready.

        See `Engine.start`.
        """
        is_cold = are_kernels_missing(several_scales=len(selection.scales) > 1)
        step("starting processes, compiling kernels" if is_cold else "starting processes")
        self._launch(selection)
        choice = Choice(selection, model.format, images)
        ready = None
        while ready is None:
            try:
                self._await_starts()
                self._deployments = choice.deployments(map(_site, self.workers))
                step("compiling the model")
                self._begin(model, calibration)
                step("loading the model, warming up")
                self._await_starts()
                ready = tuple(map(self._ready, self.workers))
            except BackendError as error:
                failed = self._deployments[str(error.device)]
                choice.rule_out(error, failed)
                self._relaunch(failed.spec.plan.kind, selection)
        warn_passed_over(self._deployments.values())
        return ready

    def direct(self, flow: DataFlow) -> None:
        """Prepares the actors for a data flow that was chosen after they became ready."""
        for reducer in self.reducers[flow.reducers :]:
            reducer.end()
        del self.reducers[flow.reducers :]
        _LOG.info(
            "the %s reads images, workers return %s, %d reducers",
            flow.read,
            flow.gather,
            flow.reducers,
        )
        started = len(self.reducers)
        self._add_reducers(flow.reducers)
        for reducer in self.reducers[started:]:
            reducer.launch()
        self._await_starts()
        if self._config.gather == "auto":
            for name, (spec, model) in self._deployed.items():
                self._deployed[name] = replace(spec, gather=flow.gather), model
            directed = [(one, one.handle.direct.remote(flow.gather)) for one in self.workers]
            for worker, answer in directed:
                self._ask_long(worker, answer)

    def sweep(self, device: str, batch_size: int, least_s: float) -> Sweep:
        """Measures how long batches take on a device; see `Worker.sweep`."""
        (actor,) = (worker for worker in self.workers if worker.name == device)
        sweep: Sweep = self._ask_long(actor, actor.handle.sweep.remote(batch_size, least_s))
        return sweep

    def end(self) -> None:
        """Ends all actors, which frees their devices."""
        ask(self.workers, "close", _CLOSE_TIMEOUT_S)
        for actor in self.actors:
            actor.end()

    def restart(
        self, actor: Actor, reason: str, *, is_suspect: bool = False, final: bool = False
    ) -> bool:
        """Restarts or excludes an actor, and returns whether its node has left the cluster.

        Args:
            actor: actor whose process failed.
            reason: description of the fault, in one line.
            is_suspect: whether a suspect task may have caused the fault.
            final: whether the actor is excluded and never restarted.
        """
        self._starting = None
        gone = bool(actor.node_id) and not is_alive(actor.node_id)
        actor.end()
        reason = f"its node left: {reason}" if gone else reason
        actor.health.fault(reason, final=final or gone, is_suspect=is_suspect)
        _LOG.warning("%s: %s", actor.name, reason)
        if actor.health.is_excluded:
            _LOG.info("%s is excluded", actor.name)
        else:
            _LOG.info("%s gets a new process", actor.name)
            actor.launch()
        return gone

    def _launch(self, selection: Selection) -> None:
        self.workers = [self._new_worker(plan, selection) for plan in self.devices(selection)]
        host = self._config.simulated.host.simulation
        self._create_reducer = partial(create_reducer, host, selection.keypoints)
        if self._config.gather != "poses":
            fixed = self._config.reducers
            self._add_reducers(1 if fixed == "auto" else fixed)
        # All actors are launched at once, so that devices load and warm up in parallel.
        for actor in self.actors:
            actor.launch()

    def _add_reducers(self, number: int) -> None:
        for index in range(len(self.reducers), number):
            name = f"reducer:{index}"
            health = Health(self._config.deadline_s)
            self.reducers.append(Actor(name, self._create_reducer, health))

    def _new_worker(self, plan: DevicePlan, selection: Selection) -> Actor:
        backends = selection.kinds[plan.kind].candidates
        create = partial(create_worker, plan, backends, chip_of(selection, plan))
        return Actor(plan.name, create, Health(self._config.deadline_s), plan=plan)

    def _relaunch(self, kind: str, selection: Selection) -> None:
        """Restarts all devices of a kind with new processes, which load another backend.

        A vendor's libraries stay in the process that has loaded them, and the libraries of two
        backends can be incompatible.
        """
        for index, worker in enumerate(self.workers):
            if worker.plan and worker.plan.kind == kind:
                worker.end()
                self._deployed.pop(worker.name, None)
                self.workers[index] = self._new_worker(worker.plan, selection)
                self.workers[index].launch()

    def _begin(self, model: ModelSource, calibration: Calibration | None) -> None:
        """Makes the artifacts of the workers that have not begun to load, and starts loading."""
        idle = [worker for worker in self.workers if worker.name not in self._deployed]
        orders = {worker.name: self._deployments[worker.name].order for worker in idle}
        start = monotonic()
        artifacts = make_artifacts(model, idle, orders, calibration, self._ask_long)
        self.compile_s += monotonic() - start
        for worker in idle:
            spec = self._deployments[worker.name].spec
            self._deployed[worker.name] = spec, artifacts[orders[worker.name]]
            worker.begin(*self._deployed[worker.name])

    def _ready(self, worker: Actor) -> DeviceReady:
        # All workers have started, so each has a description.
        ready = cast("DeviceReady", worker.ready)
        return replace(ready, passed_over=self._deployments[worker.name].passed_over)

    def _ask_long(self, actor: Actor, reference: Any) -> Any:
        return long_answer(actor, reference, self._check_stopped)

    def _await_starts(self) -> None:
        while any(actor.starting for actor in self.actors):
            self._check_stopped()
            self._await_start()

    def _check_stopped(self) -> None:
        if self.is_stopped:
            raise ExecutionError("stopped")

    def _await_start(self) -> None:
        """Waits for one of the starting actors.

        A device that cannot start ends the run: the run must not go on with fewer devices than
        requested, and no results are lost yet.

        Raises:
            SetupError: if an actor is not ready in time, or is excluded.
            BackendError: if an actor is excluded after it began to load its backend.
        """
        starting = {actor.starting: actor for actor in self.actors if actor.starting}
        done = wait([*starting], self.start_deadlines)
        for actor in [starting[reference] for reference in done]:
            self.finish_start(actor)
        for actor in starting.values():
            check_start(actor, has_begun=actor.name in self._deployed)

    def finish_start(self, actor: Actor) -> None:
        """Handles the answer of an actor that is starting.

        Raises:
            SetupError: if an actor that has never been ready cannot be set up.
        """
        self._starting = None
        answer = fetch(actor.starting)
        if isinstance(answer, CallFailure):
            if isinstance(answer.error, SetupError) and not actor.has_started:
                raise answer.error
            self.restart(actor, answer.reason)
        elif isinstance(answer, DeviceReady):
            actor.started(answer)
        elif different := difference(getattr(answer, "package", None)):
            if not actor.has_started:
                raise other_code(actor, different)
            self.restart(actor, different)
        elif isinstance(answer, DeviceAssignment):
            self._find_place(actor, answer)
        else:
            actor.started(None)

    def _find_place(self, actor: Actor, place: DeviceAssignment) -> None:
        """Assigns a process to the worker of the device that Ray gave it.

        That worker may be another one than the worker that the process was started for.
        """
        owner = match_device(place, actor, self.workers, live_nodes())
        if owner is None:
            actor.park()
            return
        if owner is not actor:
            actor.swap_process(owner)
        owner.assign(place)
        if owner.name in self._deployed:
            owner.begin(*self._deployed[owner.name])


def _site(worker: Actor) -> Site:
    # Plan and place are both set once the actor has been assigned to its device.
    plan, place = cast("DevicePlan", worker.plan), cast("DeviceAssignment", worker.place)
    return Site(replace(plan, device_id=place.device_id), place.backends)
