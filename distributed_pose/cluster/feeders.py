"""Processes that prepare images for a worker whose device one process cannot feed."""

from collections import Counter
from threading import Lock
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_pose.cluster.process import ActorProcess, remote
from distributed_pose.data.shards import pack_images, unpack_images
from distributed_pose.engine.node_images import local_preparation
from distributed_pose.engine.preparation import Prepared, input_shapes
from distributed_pose.engine.shared_inputs import (
    Allocator,
    PlacedBatch,
    Segment,
    SegmentPool,
    SegmentViews,
    found,
    placed,
    room_bytes,
)
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.records.devices import WorkerSpec
from distributed_pose.vision.profiles import PROFILES

# A process starts within seconds, and its imports take longer on a slow file system.
_START_TIMEOUT_S = 300.0

_ANSWER_TIMEOUT_S = 2.0

# A process prepares one batch while the next one is sent to it.
_BATCHES = 4


class FeederLostError(ExecutionError):
    """A process that prepares images died; any of the images that it had may be the cause."""


class _FeederActor(ActorProcess):
    """Prepares images in a process of its own."""

    def __init__(self, spec: WorkerSpec, feeders: int) -> None:
        super().__init__()
        self._preparation = local_preparation(spec)
        self._preparation.feed(feeders)
        self._segments = SegmentViews()

    def open(self, segment: Segment) -> None:
        self._segments.memory(segment)

    def prepare(
        self, images: pa.RecordBatch | bytes, batch_size: int, segment: Segment
    ) -> tuple[Prepared, list[PlacedBatch]]:
        memory = self._segments.memory(segment)
        new_array = Allocator(memory).array
        prepared = self._preparation.prepare(unpack_images(images), batch_size, new_array)
        return placed(prepared, memory)


class FeederProcesses:
    """Prepares images in processes on this node; see `engine.preparation.Preparing`.

    The processes end with this one. They write the inputs into memory that they share with it, and
    the inputs are read-only here.

    Args:
        spec: specification of the worker.
        processes: number of processes.
        feeders: number of images that each process prepares at once.

    Raises:
        SetupError: if a process cannot start.
    """

    def __init__(self, spec: WorkerSpec, processes: int, feeders: int) -> None:
        node_id = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        options = {"num_cpus": 0, "max_concurrency": _BATCHES, "scheduling_strategy": here}
        make: Any = remote(**options)(_FeederActor)
        self._actors = [make.remote(spec, feeders) for _ in range(processes)]
        self._num_busy: Counter[Any] = Counter()
        self._lock = Lock()
        profile = PROFILES[spec.profile].sized(spec.input_size)
        self._profiles = profile.at_scales(spec.scales)
        self._segments = SegmentPool()
        try:
            segment, _ = self._segments.take(1)
            opened = [actor.open.remote(segment) for actor in self._actors]
            ray.get(opened, timeout=_START_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            self.close()
            reason = " ".join(str(error).split())
            raise SetupError(f"a process that prepares images cannot start: {reason}") from None

    def prepare(self, images: pa.RecordBatch, batch_size: int) -> Prepared:
        """Returns the inputs of a shard's images, prepared by the process with the fewest shards.

        Raises:
            FeederLostError: if the process dies.
        """
        shapes = input_shapes(images, self._profiles)
        segment, memory = self._segments.take(
            max(1, room_bytes(shapes, self._profiles[0].input_dtype))
        )
        with self._lock:
            actor = min(self._actors, key=lambda one: self._num_busy[one])
            self._num_busy[actor] += 1
        try:
            answer = actor.prepare.remote(pack_images(images), batch_size, segment)
            prepared, batches = ray.get(answer)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            reason = str(error).strip().splitlines()[0]
            raise FeederLostError(f"a process that prepares its images died: {reason}") from None
        finally:
            with self._lock:
                self._num_busy[actor] -= 1
        return found(prepared, batches, memory)

    def cpu_s(self) -> float:
        """Returns the processor time that the processes have used, in seconds."""
        times = [actor.cpu_s.remote() for actor in self._actors]
        done, _ = ray.wait(times, num_returns=len(times), timeout=_ANSWER_TIMEOUT_S)
        return float(sum(ray.get(done)))

    def close(self) -> None:
        """Ends the processes; further calls do nothing."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
