"""Worker and reducer as Ray actors, and the functions that create them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any, cast

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_pose.backends.readiness import Readiness, examine
from distributed_pose.cluster.feeders import FeederProcesses
from distributed_pose.cluster.process import ASIDE, ActorProcess, remote
from distributed_pose.data.shards import unpack_images
from distributed_pose.devices.discovery import hide_accelerators, show_only
from distributed_pose.devices.kinds import KINDS
from distributed_pose.engine.feeding import MAX_BATCHES
from distributed_pose.engine.host_stages import host_stages
from distributed_pose.engine.reducer import Reducer, Reduction
from distributed_pose.engine.shared_inputs import CAN_SHARE
from distributed_pose.engine.trials import Sweep
from distributed_pose.engine.worker import Worker
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.errors import SetupError
from distributed_pose.files.package_identity import PackageIdentity, package_identity
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.compile import compile_model
from distributed_pose.records.devices import DevicePlan, DeviceReady, SimulatedHost, WorkerSpec
from distributed_pose.records.facts import WorkerReadings
from distributed_pose.records.models import CompileSpec

# Creates an actor and returns its handle and a reference to its first call.
Create = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class DeviceAssignment:
    """The device that Ray gave a worker's process, and the backends that can run on it.

    Attributes:
        device_id: id of the device that Ray gave the process; empty for CPUs.
        backends: readiness of the candidate backends in the process, best first.
        package: identity of the copy of this package that the process runs.
    """

    device_id: str
    backends: tuple[Readiness, ...]
    package: PackageIdentity


@dataclass(frozen=True)
class ReducerReady:
    """The answer of a reducer that is ready to group maps.

    Attributes:
        package: identity of the copy of this package that the reducer's process runs.
    """

    package: PackageIdentity


class _WorkerActor(ActorProcess):
    """A worker in an actor's process, pinned to a device by Ray."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind
        self._worker: Worker | None = None
        self._feeders: FeederProcesses | None = None
        ids = ray.get_runtime_context().get_accelerator_ids()
        self._device_id = next(iter(ids.get(KINDS[kind].resource, [])), "")
        # Ray leaves all devices visible to actors that reserve none, and to all actors where
        # RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES or a similar variable is set: index 0 would
        # then be the same card for all actors.
        if KINDS[kind].is_accelerator:
            show_only(kind, self._device_id)
        else:
            hide_accelerators()

    def place(self, backends: Sequence[str], soc: str) -> DeviceAssignment:
        kind = KINDS[self._kind]
        if kind.is_accelerator and not self._device_id:
            raise SetupError(
                f"Ray gives processes no device of its resource {kind.resource}",
                "a kind of device needs a resource whose devices Ray numbers",
            )
        return DeviceAssignment(self._device_id, examine(backends, soc), package_identity())

    def compile(self, model: ModelSource, order: CompileSpec) -> bytes:
        return compile_model(model, order).content

    def start(self, spec: WorkerSpec, model: bytes) -> DeviceReady:
        self._worker = Worker(spec, model, self._spread if CAN_SHARE else None)
        # Kernels that are compiling would slow the device's trials.
        self.direct(spec.gather)
        return self._worker.start()

    def direct(self, gather: str) -> None:
        """Sets whether the worker returns `maps` or `poses`."""
        worker = cast("Worker", self._worker)
        self._answer: Callable[[pa.RecordBatch], tuple[Any, WorkerReport]] = worker.infer
        if gather == "poses":
            worker.warm_up_grouping()
            self._answer = worker.infer_and_group

    def _spread(self, spec: WorkerSpec, processes: int, feeders: int) -> FeederProcesses:
        self._feeders = FeederProcesses(spec, processes, feeders)
        return self._feeders

    @ray.method(concurrency_group=ASIDE)
    def cpu_s(self) -> float:
        return process_time() + (self._feeders.cpu_s() if self._feeders else 0.0)

    @ray.method(concurrency_group=ASIDE)
    def readings(self) -> WorkerReadings | None:
        return self._worker.readings() if self._worker else None

    def process(self, images: pa.RecordBatch | bytes) -> tuple[Any, WorkerReport]:
        return self._answer(unpack_images(images))

    def sweep(self, batch_size: int, least_s: float) -> Sweep:
        # Only devices that are ready are asked for a sweep, and they have a worker.
        return cast("Worker", self._worker).sweep(batch_size, least_s)

    def close(self) -> None:
        if self._worker:
            self._worker.close()


class _ReducerActor(ActorProcess):
    """A reducer in an actor's process."""

    def __init__(self, host: SimulatedHost | None, keypoints: KeypointSet) -> None:
        super().__init__()
        self._reducer = Reducer(host_stages(host, keypoints))

    def start(self) -> ReducerReady:
        self._reducer.warm_up()
        return ReducerReady(package_identity())

    def reduce(self, maps: Sequence[pa.RecordBatch], image_ids: Sequence[int]) -> Reduction:
        return self._reducer.reduce(maps, image_ids)

    def close(self) -> None:
        pass


def reservation(plan: DevicePlan) -> dict[str, float]:
    """Returns the amounts that a worker reserves on its node, by Ray's name of the resource."""
    # The plan sets a CPU aside for each worker that feeds an accelerator. If the worker reserved
    # that CPU, a process that is held and the process that replaces it could not run at once.
    kind = KINDS[plan.kind]
    return {kind.resource: plan.share if kind.is_accelerator else plan.cpus}


def create_worker(plan: DevicePlan, backends: Sequence[str], soc: str) -> tuple[Any, Any]:
    """Starts a process for a device of the plan's kind on its node.

    Returns the actor's handle, and a reference to a `DeviceAssignment`.

    Args:
        plan: plan of the device.
        backends: names of the backends whose readiness the process examines.
        soc: name of the Ascend chip; empty for other devices, and where it is not known.
    """
    reserved = reservation(plan)
    actor = remote(max_concurrency=MAX_BATCHES)(_WorkerActor).options(
        num_cpus=reserved.pop("CPU", 0),
        num_gpus=reserved.pop("GPU", 0),
        resources=reserved,
        scheduling_strategy=NodeAffinitySchedulingStrategy(plan.node_id, soft=False),
    )
    handle: Any = actor.remote(plan.kind)
    return handle, handle.place.remote(tuple(backends), soc)


def create_reducer(host: SimulatedHost | None, keypoints: KeypointSet) -> tuple[Any, Any]:
    """Starts a reducer on any node; it reserves no CPU and uses what the workers leave idle.

    Returns the actor's handle, and a reference to a `ReducerReady`.

    Args:
        host: simulated cores that group the maps; None where real cores do.
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
    """
    # Reducers are spread over the nodes, because they take the processors that are idle there.
    options = {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
    handle: Any = remote(**options)(_ReducerActor).remote(host, keypoints)
    return handle, handle.start.remote()
