"""The engine on Ray: device-pinned actors that pull work, and reducers as actors.

The driver hands out shards and counts results; heatmaps and PAFs go from worker to reducer
through the object store and never pass through the driver.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import cv2
import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_pose.cluster.devices import Node, plan_devices
from distributed_pose.cluster.engine import shard_result, worker_specs
from distributed_pose.cluster.reducer import Reducer, Reduction
from distributed_pose.cluster.worker import Worker, WorkerReport, WorkerSpec
from distributed_pose.config import RunConfig
from distributed_pose.cpu import keep_freed_memory, num_cpus, peak_rss_bytes
from distributed_pose.data.shards import Shard
from distributed_pose.errors import ExecutionError, PoseEvalError, SetupError
from distributed_pose.records import DevicePlan, DeviceReady, Memory, ShardResult

_LOG = logging.getLogger(__name__)

# Shards in flight at each actor: one at work and one prepared, so that a device never waits for
# the driver; more would only fill the object store.
_IN_FLIGHT = 2

# Loading and warming up a model takes seconds; what takes minutes waits for CPUs it never gets.
_READY_TIMEOUT_S = 300.0
_CLOSE_TIMEOUT_S = 5.0
# The longest a shard may take before the run is given up.
_SHARD_TIMEOUT_S = 600.0

# Shards and maps in flight are tens of megabytes; Ray's default of 30 % of memory is for others.
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20


@dataclass
class _Actor:
    """An actor with the name it has in messages and the number of its calls in flight."""

    name: str
    handle: Any
    in_flight: int = 0


@dataclass(frozen=True)
class _Inferring:
    """A call of a worker; its answer holds the maps, or what they were grouped into."""

    shard: Shard
    actor: _Actor
    answer: Any


@dataclass(frozen=True)
class _Reducing:
    """A call of a reducer, with what the worker reported."""

    shard: Shard
    actor: _Actor
    device: str
    report: WorkerReport


@dataclass
class _Bytes:
    """A count of bytes and the most that it has been."""

    now: int = 0
    peak: int = 0

    def add(self, number: int) -> None:
        self.now += number
        self.peak = max(self.peak, self.now)


class RayEngine:
    """Runs workers and reducers as Ray actors on the cluster at hand, or on a local one."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._owns_ray = False
        self._workers: list[_Actor] = []
        self._reducers: list[_Actor] = []
        self._in_flight = _Bytes()

    def devices(self) -> tuple[DevicePlan, ...]:
        nodes = [
            Node(node["NodeManagerAddress"], node["NodeID"], int(node["Resources"]["CPU"]))
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]
        if not nodes:
            raise SetupError("no node of the Ray cluster has a CPU", "see `ray status`")
        # Sorted, so that device names stand for the same nodes in every run.
        return plan_devices(
            self._config.devices, sorted(nodes, key=lambda n: (n.address, n.node_id))
        )

    def start(self, backend: str, model: bytes) -> tuple[DeviceReady, ...]:
        specs = worker_specs(self._config, backend, self.devices())
        content = ray.put(model)
        self._workers = [_Actor(spec.plan.name, _worker_actor(spec, content)) for spec in specs]
        self._reducers = [
            _Actor(f"reducer:{index}", ray.remote(_ReducerActor).options(num_cpus=0).remote())
            for index in range(self._config.reducers if self._config.gather == "maps" else 0)
        ]
        # All at once: devices load and warm up side by side.
        starting = [(worker, worker.handle.start.remote()) for worker in self._workers]
        idle = [(reducer, reducer.handle.warm_up.remote()) for reducer in self._reducers]
        for reducer, reference in idle:
            _get(reference, reducer, _READY_TIMEOUT_S)
        return tuple(_get(reference, worker, _READY_TIMEOUT_S) for worker, reference in starting)

    def run(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        source = iter(shards)
        calls: dict[Any, _Inferring | _Reducing] = {}
        waiting: list[tuple[_Inferring, WorkerReport]] = []
        self._dispatch(source, calls, waiting)
        while calls:
            done, _ = ray.wait([*calls], timeout=_SHARD_TIMEOUT_S)
            if not done:
                raise ExecutionError(
                    f"no shard was finished in {_SHARD_TIMEOUT_S:.0f} s",
                    f"waiting for {', '.join(sorted({c.actor.name for c in calls.values()}))}",
                )
            call = calls.pop(done[0])
            answer = _get(done[0], call.actor, _SHARD_TIMEOUT_S)
            call.actor.in_flight -= 1
            if isinstance(call, _Reducing):
                yield self._result(call.device, call.shard, call.report, answer)
            elif self._config.gather == "poses":
                reduction = _get(call.answer, call.actor, _SHARD_TIMEOUT_S)
                yield self._result(call.actor.name, call.shard, answer, reduction)
            else:
                self._in_flight.add(answer.maps_bytes)
                waiting.append((call, answer))
            self._reduce(waiting, calls)
            self._dispatch(source, calls, waiting)

    def _dispatch(
        self,
        source: Iterator[Shard],
        calls: dict[Any, _Inferring | _Reducing],
        waiting: Sequence[object],
    ) -> None:
        """Gives shards to workers that have room, unless the reducers are behind."""
        while len(waiting) < len(self._workers):
            actor = min(self._workers, key=lambda worker: worker.in_flight)
            if actor.in_flight >= _IN_FLIGHT or (shard := next(source, None)) is None:
                return
            answer, report = actor.handle.process.options(num_returns=2).remote(shard.images)
            actor.in_flight += 1
            self._in_flight.add(shard.images.nbytes)
            calls[report] = _Inferring(shard, actor, answer)

    def _reduce(
        self,
        waiting: list[tuple[_Inferring, WorkerReport]],
        calls: dict[Any, _Inferring | _Reducing],
    ) -> None:
        """Gives finished maps to reducers that have room."""
        while waiting:
            actor = min(self._reducers, key=lambda reducer: reducer.in_flight)
            if actor.in_flight >= _IN_FLIGHT:
                return
            call, report = waiting.pop(0)
            reference = actor.handle.reduce.remote(call.answer)
            actor.in_flight += 1
            calls[reference] = _Reducing(call.shard, actor, call.actor.name, report)

    def _result(
        self, device: str, shard: Shard, report: WorkerReport, reduction: Reduction
    ) -> ShardResult:
        self._in_flight.add(-shard.images.nbytes - report.maps_bytes)
        return shard_result(device, shard, report, reduction)

    def memory(self) -> Memory:
        actors = (*self._workers, *self._reducers)
        asked = [(actor, actor.handle.peak_rss_bytes.remote()) for actor in actors]
        peaks = {actor.name: _get(answer, actor, _SHARD_TIMEOUT_S) for actor, answer in asked}
        return Memory({"driver": peak_rss_bytes(), **peaks}, self._in_flight.peak)

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            _connect()
            self._owns_ray = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closing = [worker.handle.close.remote() for worker in self._workers]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S)
        for actor in (*self._workers, *self._reducers):
            ray.kill(actor.handle)
        if self._owns_ray:
            ray.shutdown()


def _settle_in() -> None:
    """Prepares an actor's process."""
    # The reserved CPUs are the model's; OpenCV would take all of the machine's.
    cv2.setNumThreads(1)
    keep_freed_memory()


class _WorkerActor:
    """A worker in an actor's process."""

    def __init__(self, spec: WorkerSpec, model: bytes) -> None:
        _settle_in()
        self._worker = Worker(spec, model)
        groups = spec.gather == "poses"
        self._answer = self._worker.infer_and_group if groups else self._worker.infer

    def start(self) -> DeviceReady:
        return self._worker.start()

    def process(self, images: pa.RecordBatch) -> tuple[Any, WorkerReport]:
        return self._answer(images)

    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    def close(self) -> None:
        self._worker.close()


class _ReducerActor:
    """A reducer in an actor's process."""

    def __init__(self) -> None:
        _settle_in()
        self._reducer = Reducer()

    def warm_up(self) -> None:
        self._reducer.warm_up()

    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    def reduce(self, maps: Sequence[pa.RecordBatch]) -> Reduction:
        return self._reducer.reduce(maps)


def _worker_actor(spec: WorkerSpec, content: Any) -> Any:
    actor = ray.remote(_WorkerActor).options(
        num_cpus=spec.plan.cpus,
        max_concurrency=_IN_FLIGHT,
        scheduling_strategy=NodeAffinitySchedulingStrategy(spec.plan.node_id, soft=False),
    )
    return actor.remote(spec, content)


def _connect() -> None:
    """Joins the cluster that Ray's conventions name, or starts a local one."""
    quiet = not _LOG.isEnabledFor(logging.INFO)
    common: dict[str, Any] = {
        "log_to_driver": not quiet,
        "logging_level": logging.ERROR if quiet else logging.INFO,
    }
    # Ray announces a changed default on stderr unless it is chosen; actors without a GPU keep
    # the environment as it is.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            num_cpus=num_cpus(),
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **common,
        )
    except ValueError:
        # These settings are refused where there is a cluster to join.
        _join(common)


def _join(common: Mapping[str, Any]) -> None:
    try:
        ray.init(**common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS", "")
        raise SetupError(
            f"cannot join the Ray cluster {address}: {error}", "see RAY_ADDRESS, or unset it"
        ) from None


def _get(reference: Any, actor: _Actor, timeout_s: float) -> Any:
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError:
        raise SetupError(
            f"not ready within {timeout_s:.0f} s",
            "are its CPUs taken by another job? see `ray status`",
            device=actor.name,
        ) from None
    except RayTaskError as error:
        if isinstance(error.cause, PoseEvalError):
            raise error.cause from None
        raise ExecutionError(f"failed: {error.cause!r}", device=actor.name) from error
    except RayActorError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExecutionError(f"its process died: {reason}", device=actor.name) from None
    except RayError as error:
        raise ExecutionError(f"lost: {error}", device=actor.name) from error
