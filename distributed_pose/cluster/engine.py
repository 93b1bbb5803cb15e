"""What runs workers and reducers: the protocol, and the engine without Ray."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from distributed_pose.cluster.devices import Node, plan_devices
from distributed_pose.cluster.reducer import Reducer, Reduction
from distributed_pose.cluster.worker import Worker, WorkerReport, WorkerSpec
from distributed_pose.config import RunConfig
from distributed_pose.cpu import num_cpus, peak_rss_bytes
from distributed_pose.data.shards import Shard
from distributed_pose.records import DevicePlan, DeviceReady, Memory, ShardResult


class Engine(Protocol):
    """Runs shards on devices. Used as a context manager, which frees the devices."""

    def devices(self) -> tuple[DevicePlan, ...]:
        """Returns the devices that the run uses."""

    def start(self, backend: str, model: bytes) -> tuple[DeviceReady, ...]:
        """Returns when every device has loaded and warmed up its model.

        Raises:
            SetupError: if one of them cannot.
        """

    def run(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        """Yields the results of all shards, in the order in which they are done.

        Raises:
            ExecutionError: if the run cannot go on.
        """

    def memory(self) -> Memory:
        """Returns what the run has taken so far, while its processes live."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class InlineEngine:
    """Runs the workers and the reducer in this process, one shard after the other."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._workers: list[tuple[str, Worker]] = []
        self._reducer = Reducer()

    def devices(self) -> tuple[DevicePlan, ...]:
        return plan_devices(self._config.devices, [Node("", "", num_cpus())])

    def start(self, backend: str, model: bytes) -> tuple[DeviceReady, ...]:
        ready = []
        for spec in worker_specs(self._config, backend, self.devices()):
            worker = Worker(spec, model)
            self._workers.append((spec.plan.name, worker))
            ready.append(worker.start())
        self._reducer.warm_up()
        return tuple(ready)

    def run(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        for shard in shards:
            name, worker = self._workers[shard.number % len(self._workers)]
            if self._config.gather == "poses":
                reduction, report = worker.infer_and_group(shard.images)
            else:
                maps, report = worker.infer(shard.images)
                reduction = self._reducer.reduce(maps)
            yield shard_result(name, shard, report, reduction)

    def memory(self) -> Memory:
        return Memory({"driver": peak_rss_bytes()}, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for _, worker in self._workers:
            worker.close()


def worker_specs(config: RunConfig, backend: str, plans: Sequence[DevicePlan]) -> list[WorkerSpec]:
    """Returns the worker of each device."""
    return [
        WorkerSpec(
            plan,
            backend,
            config.precision,
            config.profile,
            config.batch_size,
            config.maps_dtype,
            config.gather,
        )
        for plan in plans
    ]


def shard_result(
    device: str, shard: Shard, report: WorkerReport, reduction: Reduction
) -> ShardResult:
    """Returns what worker and reducer made of a shard as one result."""
    return ShardResult(
        device,
        report.image_ids,
        reduction.detections,
        shard.failures + report.failures,
        {
            "read": shard.read_ns,
            **report.durations,
            "transfer": (report.pack_ns + reduction.unpack_ns,) if report.pack_ns else (),
            **reduction.durations,
        },
    )
