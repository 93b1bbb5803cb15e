"""The engine on Ray: device-pinned actors that pull work, and reducers as actors.

The driver hands out shards and counts results; heatmaps and PAFs go from worker to reducer
through the object store and never pass through the driver.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from time import gmtime, process_time, strftime
from types import TracebackType
from typing import Self

import ray

from distributed_pose.cluster.abandonment import abandon
from distributed_pose.cluster.answers import RayAnswers
from distributed_pose.cluster.backpressure import InFlightBudget
from distributed_pose.cluster.calls import ask
from distributed_pose.cluster.connection import (
    connect,
    live_nodes,
    ray_cpu_s,
    where,
)
from distributed_pose.cluster.fleet import ActorPool
from distributed_pose.cluster.guard import ClusterLostError, Guard
from distributed_pose.cluster.live_metrics import LiveMetrics
from distributed_pose.cluster.loop import DispatchLoop, DispatchSettings
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import Selection
from distributed_pose.data.read_ahead import read_ahead
from distributed_pose.devices.host import peak_rss_bytes
from distributed_pose.engine.base import Workload
from distributed_pose.engine.dispatch import batches_per_call, calls_in_flight
from distributed_pose.engine.flow import choose_flow
from distributed_pose.engine.health import collect_faults
from distributed_pose.engine.steps import step
from distributed_pose.engine.task_queue import TaskQueue
from distributed_pose.engine.trials import Sweep
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.makers import Calibration
from distributed_pose.records.devices import DevicePlan, DeviceReady, ImagesToRead
from distributed_pose.records.facts import (
    DataFlow,
    EngineFacts,
    Faults,
    HostUse,
    Memory,
    WorkerReadings,
)
from distributed_pose.records.shards import ShardResult

_LOG = logging.getLogger(__name__)

_QUESTION_TIMEOUT_S = 2.0

# The cluster has just been joined, so it answers unless it hangs.
_FIRST_ANSWER_TIMEOUT_S = 30.0

# Workers have five seconds to close their devices, and Ray then waits up to two seconds for each of
# its five processes to end.
_END_TIMEOUT_S = 20.0

# A run that is stopped ends within five seconds, even if the calls in flight take longer.
_STOP_TIMEOUT_S = 3.0


class RayEngine:
    """Runs workers and reducers as Ray actors, on an existing cluster or on a local one.

    Attributes:
        guard: makes all calls into Ray.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        # Leaves the cluster that this run has joined or started; None if the process had joined
        # it before.
        self._leave: Callable[[], None] | None = None
        self._fleet = ActorPool(config)
        self.guard = Guard()
        self._transit = InFlightBudget(config, room_bytes=0)
        self._shard_sizes: dict[str, int] = {}
        self._ready: tuple[DeviceReady, ...] = ()
        self._batches_a_call: dict[str, int] = {}
        self._cpu_before_s: dict[str, float] = {}
        self._num_images = 0
        self._flow = DataFlow()
        self._live_metrics: LiveMetrics | None = None

    def devices(self, selection: Selection) -> tuple[DevicePlan, ...]:
        return self.guard.call(self._fleet.devices, selection)

    def start(
        self,
        selection: Selection,
        model: ModelSource,
        calibration: Calibration | None = None,
        images: ImagesToRead | None = None,
    ) -> tuple[DeviceReady, ...]:
        ready = self.guard.call(self._fleet.start, selection, model, calibration, images)
        self._shard_sizes = {device.plan.name: device.shard_size for device in ready}
        self._ready = ready
        self._batches_a_call = {device.plan.name: batches_per_call(device) for device in ready}
        nodes = self.guard.call(live_nodes)
        self._flow = choose_flow(self._config, ready, images, int(sum(n.cpus for n in nodes)))
        known = {"gather": self._flow.gather, "input": str(selection.input_size or "auto")}
        config = self._config.model_copy(update=known)
        room_bytes = min(node.object_store_bytes for node in nodes)
        self._transit = InFlightBudget(
            config, room_bytes, max(self._shard_sizes.values()), selection.keypoints
        )
        self.guard.call(self._fleet.direct, self._flow)
        return ready

    def flow(self) -> DataFlow:
        return self._flow

    def sweep(self, device: str, batch_size: int, least_s: float) -> Sweep:
        return self.guard.call(self._fleet.sweep, device, batch_size, least_s)

    def run(self, workload: Workload) -> Iterator[ShardResult]:
        loop = self.guard.call(self._loop, workload)
        results = loop.results()
        batches = iter(lambda: self.guard.call(next, results, None), None)
        if self._config.live_metrics:
            batches = self._observed(batches, workload.num_images)
        yield from chain.from_iterable(batches)

    def _observed(
        self, batches: Iterator[list[ShardResult]], num_images: int
    ) -> Iterator[list[ShardResult]]:
        with self.guard.call(self._open_live_metrics, num_images) as live_metrics:
            for some in batches:
                live_metrics.record(some)
                yield some

    def _open_live_metrics(self, num_images: int) -> LiveMetrics:
        run = _run_label()
        _LOG.info("the live metrics of this session have the label run=%s", run)
        workers, reducers = self._fleet.workers, self._fleet.reducers
        self._live_metrics = LiveMetrics(run, workers, reducers, num_images)
        return self._live_metrics

    def _loop(self, workload: Workload) -> DispatchLoop:
        self._num_images = workload.num_images
        # Shards without images and answers without maps are small, so a call may have several.
        is_short = workload.is_listed and self._flow.gather == "poses"
        batches = self._batches_a_call if is_short else {}
        in_flight = {
            device.plan.name: calls_in_flight(device, batches.get(device.plan.name, 1))
            for device in self._ready
        }
        # Shards that only list their images take no time to read, so no thread reads them ahead.
        shards = workload.shards
        source = iter(shards) if workload.is_listed else read_ahead(shards)
        nodes = {worker.name: worker.node_id for worker in self._fleet.workers}
        queue = TaskQueue(source, self._shard_sizes, batches, workload.num_images, nodes)
        self._cpu_before_s = {"driver": process_time(), **self._others_cpu_s()}
        settings = DispatchSettings(gather=self._flow.gather, in_flight=in_flight)
        return DispatchLoop(self._fleet, queue, self._transit, RayAnswers(), settings)

    def faults(self) -> Faults:
        return collect_faults({actor.name: actor.health for actor in self._fleet.actors})

    def facts(self) -> EngineFacts:
        compile_s, faults = self._fleet.compile_s, self.faults()
        if self._fleet.is_stopped:
            return EngineFacts(compile_s=compile_s, faults=faults)
        return EngineFacts(
            compile_s=compile_s,
            host_use=self.guard.call(self._host_use),
            memory=self.guard.call(self._memory),
            faults=faults,
            flow=self._flow,
            readings=self.guard.call(self._readings),
        )

    def _readings(self) -> dict[str, WorkerReadings]:
        workers = self._fleet.workers
        found = ask(workers, "readings", _QUESTION_TIMEOUT_S)
        for worker in workers:
            # A process that was started again may not have its worker yet.
            worker.readings.update(found.get(worker.name))
        return {one.name: total for one in workers if (total := one.readings.total)}

    def _memory(self) -> Memory:
        peaks = ask(self._fleet.actors, "peak_rss_bytes", _QUESTION_TIMEOUT_S)
        return Memory(
            peak_rss_bytes={"driver": peak_rss_bytes(), **peaks},
            peak_object_store_bytes=self._transit.peak_bytes,
        )

    def _host_use(self) -> HostUse:
        before, after = self._cpu_before_s, {"driver": process_time(), **self._others_cpu_s()}
        used = {name: after_s - before.get(name, 0.0) for name, after_s in after.items()}
        # The counter of a restarted process began at 0, so the difference can be negative.
        return HostUse(
            cpu_s={name: used_s if used_s >= 0 else after[name] for name, used_s in used.items()},
            object_store_bytes=self._transit.total_bytes,
            cores=sum(node.cpus for node in live_nodes()),
            images=self._num_images,
        )

    def _others_cpu_s(self) -> dict[str, float]:
        return {**ask(self._fleet.actors, "cpu_s", _QUESTION_TIMEOUT_S), "ray": ray_cpu_s()}

    def __enter__(self) -> Self:
        try:
            if not ray.is_initialized():
                step("starting Ray")
                self._leave = connect(self.guard)
            self.guard.watch(self.guard.call_within(_FIRST_ANSWER_TIMEOUT_S, where))
        except BaseException as error:
            if isinstance(error, ClusterLostError | KeyboardInterrupt):
                self._abandon()
            else:
                self.guard.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._fleet.is_stopped = True
        # The generator of `run` is still open if the block that iterates over it has failed.
        if self._live_metrics:
            self._live_metrics.close()
        is_stopped = isinstance(error, KeyboardInterrupt)
        try:
            self.guard.call_within(_STOP_TIMEOUT_S if is_stopped else _END_TIMEOUT_S, self._end)
            self.guard.end()
        except ClusterLostError as lost:
            # The error that ended the run is the better message, and finished results are kept.
            _LOG.log(logging.INFO if is_stopped else logging.WARNING, "%s", lost)
            self._abandon()
        except KeyboardInterrupt:
            self._abandon()
            raise

    def _end(self) -> None:
        self._fleet.end()
        if self._leave:
            # The cluster is left on purpose, so its silence is no longer an error.
            self.guard.watch(None)
            self._leave()

    def _abandon(self) -> None:
        self._fleet.is_stopped = True
        # The guard's thread stays: the kernel ends the processes of a local Ray with the thread
        # that has started them, and Ray then ends this process.
        self.guard.watch(None)
        abandon()


def _run_label() -> str:
    """Returns the label of this session in live metrics: its start in UTC, and the job's id."""
    return f"{strftime('%Y%m%dT%H%M%SZ', gmtime())}-{ray.get_runtime_context().get_job_id()}"
