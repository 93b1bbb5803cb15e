"""The engine without Ray, with workers and reducer in the process of the driver."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from time import monotonic, perf_counter, process_time
from types import TracebackType
from typing import Self

from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import Selection
from distributed_pose.data.shards import Shard
from distributed_pose.devices.host import num_cpus, peak_rss_bytes
from distributed_pose.engine.base import Workload, starting
from distributed_pose.engine.choice import Choice, examine_here, warn_passed_over
from distributed_pose.engine.deployment import Deployment, local_devices, on_this_machine
from distributed_pose.engine.flow import choose_flow
from distributed_pose.engine.health import Health, collect_faults, none_left
from distributed_pose.engine.host_stages import host_stages
from distributed_pose.engine.kernels_beside import are_kernels_missing
from distributed_pose.engine.reducer import Reducer, Reduction
from distributed_pose.engine.results import (
    check_reduction,
    check_report,
    describe,
    failed_result,
    shard_result,
    with_failures,
)
from distributed_pose.engine.scale_reducer import ScaleReducer
from distributed_pose.engine.settling import device_to_exclude, settle
from distributed_pose.engine.steps import step
from distributed_pose.engine.task_queue import Task, TaskQueue
from distributed_pose.engine.trials import Sweep
from distributed_pose.engine.worker import Worker
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.errors import BackendError
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.compile import compile_model, portable
from distributed_pose.model.makers import Calibration
from distributed_pose.records.devices import DevicePlan, DeviceReady, ImagesToRead
from distributed_pose.records.facts import DataFlow, EngineFacts, Faults, HostUse, Memory
from distributed_pose.records.models import CompileSpec
from distributed_pose.records.shards import ShardResult, ShardTimes

_LOG = logging.getLogger(__name__)


@dataclass
class _Device:
    """A worker in this process, and its health."""

    name: str
    worker: Worker
    health: Health


class InlineEngine:
    """Runs the workers and the reducer in this process, one shard after the other.

    A call in this process cannot be interrupted, so failures are handled and deadlines are not
    enforced.

    Args:
        config: configuration of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._devices: list[_Device] = []
        self._shard_sizes: dict[str, int] = {}
        self._compile_s = 0.0
        self._cpu_before_s = 0.0
        self._num_images = 0
        self._flow = DataFlow()

    def devices(self, selection: Selection) -> tuple[DevicePlan, ...]:
        return local_devices(selection)

    def start(
        self,
        selection: Selection,
        model: ModelSource,
        calibration: Calibration | None = None,
        images: ImagesToRead | None = None,
    ) -> tuple[DeviceReady, ...]:
        host = self._config.simulated.host.simulation
        self._reducer = Reducer(host_stages(host, selection.keypoints))
        # Kernels that are compiling would slow the devices' trials.
        several = len(self._config.scales) > 1
        is_cold = are_kernels_missing(several_scales=several)
        step("compiling kernels" if is_cold else "loading kernels")
        (ScaleReducer(selection.keypoints) if several else self._reducer).warm_up()
        choice = Choice(selection, model.format, images)
        sites = [examine_here(selection, plan) for plan in self.devices(selection)]
        ready = None
        while ready is None:
            deployments = choice.deployments(sites)
            try:
                ready = self._start(model, calibration, deployments)
            except BackendError as error:
                self._close()
                self._devices.clear()
                choice.rule_out(error, deployments[str(error.device)])
        warn_passed_over(deployments.values())
        self._shard_sizes = {device.plan.name: device.shard_size for device in ready}
        self._flow = choose_flow(self._config, ready, images, num_cpus())
        return ready

    def flow(self) -> DataFlow:
        return self._flow

    def _start(
        self,
        model: ModelSource,
        calibration: Calibration | None,
        deployments: Mapping[str, Deployment],
    ) -> tuple[DeviceReady, ...]:
        here = [on_this_machine(deployment) for deployment in deployments.values()]
        step("compiling the model")
        artifacts = self._compile(model, here, calibration)
        ready = []
        for deployment in here:
            spec = deployment.spec
            worker = Worker(spec, artifacts[deployment.order])
            self._devices.append(_Device(spec.plan.name, worker, Health(self._config.deadline_s)))
            ready.append(replace(worker.start(), passed_over=deployment.passed_over))
        return tuple(ready)

    def sweep(self, device: str, batch_size: int, least_s: float) -> Sweep:
        (worker,) = (found.worker for found in self._devices if found.name == device)
        return worker.sweep(batch_size, least_s)

    def _compile(
        self, model: ModelSource, deployments: Sequence[Deployment], calibration: Calibration | None
    ) -> dict[CompileSpec, bytes]:
        start = perf_counter()
        artifacts: dict[CompileSpec, bytes] = {}
        for deployment in deployments:
            order = deployment.order
            if order not in artifacts:
                with starting(deployment.spec.plan.name):
                    artifacts[order] = compile_model(
                        portable(model, order), order, calibration
                    ).content
        self._compile_s += perf_counter() - start
        return artifacts

    def run(self, workload: Workload) -> Iterator[ShardResult]:
        self._num_images = workload.num_images
        self._cpu_before_s = process_time()
        # Tasks of several batches would not save any call here, so all have one.
        work = TaskQueue(iter(workload.shards), self._shard_sizes)
        turns = cycle(self._devices)
        while work.has_pending():
            usable = [device.name for device in self._devices if not device.health.is_excluded]
            if not usable:
                raise none_left("device", self._health())
            device = next(turns)
            if device.name in usable and (task := work.take(device.name, usable)):
                yield from self._attempt(work, task, device)

    def _attempt(self, work: TaskQueue, task: Task, device: _Device) -> Iterator[ShardResult]:
        start = monotonic()
        try:
            report, reduction = self._process(task.shard, device)
        # The runtimes of vendors raise exceptions of any type.
        except Exception as error:  # noqa: BLE001
            reason = describe(error)
            device.health.fault(reason, is_suspect=task.is_suspect)
            _LOG.info("%s failed with a shard: %s", device.name, reason)
            if device.health.is_excluded:
                _LOG.info("%s is excluded", device.name)
            if failures := work.fail(task, device.name, reason):
                yield failed_result(device.name, failures)
        else:
            times = self._times(start, report)
            device.health.success(monotonic() - start)
            grouped = with_failures(task.shard, report, reduction)
            settled = settle(work, task, device.name, grouped, self._health())
            yield shard_result(device.name, task.shard, settled, reduction, times)
            self._exclude(work, device_to_exclude(task, self._health()))

    def _exclude(self, work: TaskQueue, name: str) -> None:
        """Excludes the named device, which cannot read images that others can; none if empty."""
        if name:
            health = self._health()[name]
            health.fault(health.refusal_summary, final=True)
            work.exclude(name)

    def _process(self, shard: Shard, device: _Device) -> tuple[WorkerReport, Reduction]:
        if self._flow.gather == "poses":
            reduction, report = device.worker.infer_and_group(shard.images)
        else:
            maps, report = device.worker.infer(shard.images)
            reduction = self._reducer.reduce(maps, report.image_ids)
        check_report(shard, report)
        check_reduction(report, reduction)
        return report, reduction

    def _times(self, start: float, report: WorkerReport) -> ShardTimes:
        """Returns the times of a shard that has its result now."""
        now = monotonic()
        if self._flow.gather == "poses":
            return ShardTimes(sent_s=start, answered_s=now, batches=report.batches)
        # The worker in this process has the same clock, and reducing follows at once.
        inferred = max((end_ns / 1e9 for *_, end_ns in report.batches), default=start)
        return ShardTimes(
            sent_s=start,
            answered_s=inferred,
            reducer="driver",
            reduce_s=inferred,
            reduced_s=now,
            batches=report.batches,
        )

    def faults(self) -> Faults:
        return collect_faults(self._health())

    def facts(self) -> EngineFacts:
        return EngineFacts(
            compile_s=self._compile_s,
            memory=Memory(peak_rss_bytes={"driver": peak_rss_bytes()}, peak_object_store_bytes=0),
            faults=self.faults(),
            flow=self._flow,
            host_use=HostUse(
                cpu_s={"driver": process_time() - self._cpu_before_s},
                cores=num_cpus(),
                images=self._num_images,
            ),
            readings={device.name: device.worker.readings() for device in self._devices},
        )

    def _health(self) -> dict[str, Health]:
        return {device.name: device.health for device in self._devices}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        for device in self._devices:
            try:
                device.worker.close()
            # The other devices must be closed too, and the results so far stay valid.
            except Exception as failure:  # noqa: BLE001
                _LOG.warning("%s: %s", device.name, describe(failure))
