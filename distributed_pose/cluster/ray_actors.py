"""Worker and reducer as Ray actors: their processes, and what may be asked of them meanwhile."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_pose.cluster.diagnosis import describe_threads
from distributed_pose.cluster.reducer import Reducer, Reduction
from distributed_pose.cluster.worker import Worker, WorkerReport, WorkerSpec
from distributed_pose.cpu import keep_freed_memory, peak_rss_bytes
from distributed_pose.records import DeviceReady

# Calls in flight at each actor: one at work and one prepared, so that a device never waits for
# the driver; more would only fill the object store.
IN_FLIGHT = 2

# A thread of its own, so that an actor answers questions while it is at work.
_ASIDE = "aside"
_remote = partial(ray.remote, concurrency_groups={_ASIDE: 1}, max_restarts=0)

# Makes an actor and returns its handle and the first call, which ends when it is ready.
Create = Callable[[], tuple[Any, Any]]


class _Actor:
    """A process of the run."""

    def __init__(self) -> None:
        # The reserved CPUs are the model's; OpenCV would take all of the machine's.
        cv2.setNumThreads(1)
        keep_freed_memory()

    @ray.method(concurrency_group=_ASIDE)
    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    @ray.method(concurrency_group=_ASIDE)
    def doing(self) -> str:
        return describe_threads()


class _WorkerActor(_Actor):
    """A worker in an actor's process."""

    def __init__(self, spec: WorkerSpec, model: bytes) -> None:
        super().__init__()
        self._worker = Worker(spec, model)
        groups = spec.gather == "poses"
        self._answer = self._worker.infer_and_group if groups else self._worker.infer

    def start(self) -> DeviceReady:
        return self._worker.start()

    def process(self, images: pa.RecordBatch) -> tuple[Any, WorkerReport]:
        return self._answer(images)

    def close(self) -> None:
        self._worker.close()


class _ReducerActor(_Actor):
    """A reducer in an actor's process."""

    def __init__(self) -> None:
        super().__init__()
        self._reducer = Reducer()

    def start(self) -> None:
        self._reducer.warm_up()

    def reduce(self, maps: Sequence[pa.RecordBatch]) -> Reduction:
        return self._reducer.reduce(maps)

    def close(self) -> None:
        pass


def create_worker(spec: WorkerSpec, model: Any) -> tuple[Any, Any]:
    """Starts a worker on its node.

    Args:
        spec: what it is.
        model: reference to the model's content.
    """
    actor = _remote(max_concurrency=IN_FLIGHT)(_WorkerActor).options(
        num_cpus=spec.plan.cpus,
        scheduling_strategy=NodeAffinitySchedulingStrategy(spec.plan.node_id, soft=False),
    )
    handle: Any = actor.remote(spec, model)
    return handle, handle.start.remote()


def create_reducer() -> tuple[Any, Any]:
    """Starts a reducer on any node; it takes the processor time that workers leave."""
    handle: Any = _remote(num_cpus=0)(_ReducerActor).remote()
    return handle, handle.start.remote()
