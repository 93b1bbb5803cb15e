"""The worker, which turns encoded images into heatmaps and PAFs on one device.

Array legend: N images, H and W size in pixels, 3 the channels blue, green, red.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from socket import gethostname
from time import monotonic_ns, perf_counter_ns
from typing import TypeVar, cast

import pyarrow as pa

from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
)
from distributed_pose.backends.registry import open_backend
from distributed_pose.data.shards import ImageMaps
from distributed_pose.devices.host import num_cpus
from distributed_pose.engine.device_maps import checked, image_maps, packed_maps, write_maps
from distributed_pose.engine.device_queue import DeviceQueue
from distributed_pose.engine.feeding import Feeding, plan_feeding
from distributed_pose.engine.host_stages import host_stages
from distributed_pose.engine.monitor import Monitor
from distributed_pose.engine.node_images import local_preparation
from distributed_pose.engine.node_versions import versions
from distributed_pose.engine.preparation import Preparation, Preparing
from distributed_pose.engine.reducer import Grouped, Reducer, Reduction, joined
from distributed_pose.engine.scale_reducer import ScaleReducer
from distributed_pose.engine.steps import step
from distributed_pose.engine.trials import Sweep, Trials, preparation_s
from distributed_pose.engine.worker_report import WorkerReport, joined_reports, report_of
from distributed_pose.errors import BackendError, PoseEvalError, SetupError
from distributed_pose.recordings.recording import Recording
from distributed_pose.records.devices import DeviceReady, WorkerSpec
from distributed_pose.records.facts import WorkerReadings
from distributed_pose.vision.profiles import PROFILES

_T = TypeVar("_T")

# Makes the processes that prepare images for a worker: their number, and the feeders of each.
Spread = Callable[[WorkerSpec, int, int], Preparing]


class Worker:
    """Runs shards through one device.

    Several threads may call `infer` and `infer_and_group` at once. While a single thread runs one
    batch on the device, others prepare the next batches and group the last ones.

    Args:
        spec: specification of the worker: device, backend, precision and batch sizes.
        model: content of the model or artifact that the backend loads.
        spread: makes processes that prepare images, for devices that one process cannot feed; None
            if the worker must prepare all images itself.
    """

    def __init__(self, spec: WorkerSpec, model: bytes, spread: Spread | None = None) -> None:
        self._spec = spec
        self._model = model
        self._spread = spread
        self._profile = PROFILES[spec.profile].sized(spec.input_size)
        self._queue = DeviceQueue(spec.plan.name)
        self._slots = 1
        self._batch_size = self._shard_size = max(spec.batch_sizes)
        self._reducer = Reducer(host_stages(spec.simulation.host, spec.keypoints))
        self._scale_reducer = ScaleReducer(spec.keypoints) if len(spec.scales) > 1 else None
        self._preparation: Preparing | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._dump = Recording(spec.dump_folder) if spec.dump_folder else None
        self._monitor = Monitor(spec.plan)

    def start(self) -> DeviceReady:
        """Loads and warms up the model, and returns the description of the ready device.

        Raises:
            BackendError: if the device or the model cannot be used.
            SetupError: if the worker reads the images and its node does not have them.
        """
        spec = self._spec
        own = local_preparation(spec)
        self._preparation = own
        try:
            return self._start(own)
        # No image of the dataset has been inferred yet, so the model or the device is at fault.
        except PoseEvalError as error:
            raise BackendError(error.message, error.hint, device=spec.plan.name) from None

    def infer(self, images: pa.RecordBatch) -> tuple[list[pa.RecordBatch], WorkerReport]:
        """Returns the maps of a shard, one record batch per batch of inputs, and the report.

        Args:
            images: images of the shard, in the schema `data.shards.IMAGES`.

        Raises:
            ExecutionError: if the device fails or returns invalid maps.
        """
        maps, reports = self._run(images, lambda parts: [*map(packed_maps, parts)])
        packed = [batch for batch, _ in chain.from_iterable(maps)]
        return packed, replace(
            joined_reports(reports, self._monitor.news()),
            pack_ns=sum(pack_ns for _, pack_ns in chain.from_iterable(maps)),
            maps_bytes=sum(batch.nbytes for batch in packed),
        )

    def infer_and_group(self, images: pa.RecordBatch) -> tuple[Reduction, WorkerReport]:
        """Returns the detections of a shard, grouped in the worker, and the report.

        Args:
            images: images of the shard, in the schema `data.shards.IMAGES`.

        Raises:
            ExecutionError: if the device fails or returns invalid maps.
        """
        grouped, reports = self._run(images, self._group)
        report = joined_reports(reports, self._monitor.news())
        return joined(chain.from_iterable(grouped)), report

    def warm_up_grouping(self) -> None:
        """Compiles or loads the code of `infer_and_group`, so that no shard waits for it."""
        (self._scale_reducer or self._reducer).warm_up()

    def sweep(self, batch_size: int, least_s: float) -> Sweep:
        """Measures batches of one size and returns their times.

        Args:
            batch_size: number of images per batch.
            least_s: shortest duration of the measurement in seconds.

        Raises:
            ExecutionError: if the device fails.
        """
        with _named(self._spec.plan.name):
            return self._trials().sweep(batch_size, least_s)

    def readings(self) -> WorkerReadings:
        """Returns the readings since the first shard, and ends them."""
        return self._monitor.readings()

    def close(self) -> None:
        """Frees the device and all threads and processes; further calls do nothing."""
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._preparation:
            self._preparation.close()
        self._queue.close()

    def _run(
        self, images: pa.RecordBatch, finish: Callable[[Sequence[ImageMaps]], list[_T]]
    ) -> tuple[list[list[_T]], list[WorkerReport]]:
        """Runs a shard batch by batch, with several batches at once.

        Returns the results of `finish` and the report of each batch.

        Args:
            images: images of the shard.
            finish: called with the maps of each batch, in any thread; at several scales, with those
                of all batches that an image can be in.
        """
        if self._threads is None:
            raise SetupError("the worker is not started", device=self._spec.plan.name)
        self._monitor.begin()
        parts = [
            self._threads.submit(self._part, images.slice(start, self._shard_size), finish)
            for start in range(0, images.num_rows, self._shard_size)
        ]
        try:
            outcomes = [part.result() for part in parts]
        finally:
            for part in parts:
                part.cancel()
        return [results for results, _ in outcomes], [report for _, report in outcomes]

    def _part(
        self, images: pa.RecordBatch, finish: Callable[[Sequence[ImageMaps]], list[_T]]
    ) -> tuple[list[_T], WorkerReport]:
        """Prepares and infers images that fill one batch, unless their inputs differ in shape."""
        # Threads run parts only after the start, which makes the preparation.
        start_ns = monotonic_ns()
        prepared = cast("Preparing", self._preparation).prepare(images, self._batch_size)
        prepared_ns = monotonic_ns()
        durations: dict[str, list[int]] = defaultdict(list, prepared.durations)
        with _named(self._spec.plan.name):
            answers = [self._queue.submit(batch) for batch in prepared.batches]
            try:
                maps = [
                    checked(batch, answer.result(), self._spec.keypoints, durations)
                    for batch, answer in zip(prepared.batches, answers, strict=True)
                ]
            finally:
                for answer in answers:
                    answer.cancel()
        self._monitor.add(len(prepared.encoded_bytes))
        batches = zip(prepared.batches, maps, strict=True)
        converted = [image_maps(batch, answer, self._spec.maps_dtype) for batch, answer in batches]
        if self._dump:
            write_maps(self._dump, images, converted)
        finished: list[_T] = []
        times = []
        for parts in [converted] if self._scale_reducer else [[batch] for batch in converted]:
            finish_ns = monotonic_ns()
            finished += finish(parts)
            times += [(finish_ns, monotonic_ns())] * len(parts)
        inferences = (answer.result() for answer in answers)
        spans = tuple(
            (
                batch.scales.count(0),
                start_ns,
                prepared_ns,
                one.started_ns,
                one.answered_ns,
                *ends_ns,
            )
            for batch, one, ends_ns in zip(converted, inferences, times, strict=True)
        )
        return finished, replace(report_of(prepared, durations), batches=spans)

    def _group(self, parts: Sequence[ImageMaps]) -> list[Grouped]:
        """Returns the people in maps; at several scales, those in the mean of each image's maps."""
        if self._scale_reducer:
            return [self._scale_reducer.group(parts)]
        return [*map(self._reducer.group, parts)]

    def _start(self, own: Preparation) -> DeviceReady:
        start = perf_counter_ns()
        spec, name = self._spec, self._spec.plan.name
        step(f"loading the model on {name}")
        backend = self._queue.open(self._open_backend)
        self._slots = backend.slots
        trials = self._trials()
        if max(spec.batch_sizes) > 1:
            step(f"choosing the batch size of {name}")
        mixes = max(spec.batch_sizes) > 1 and trials.mixes_images()
        self._shard_size = self._best_batch_size(trials)
        self._batch_size = 1 if mixes else self._shard_size
        step(f"warming up {name} with batches of {self._batch_size}")
        batches = trials.batches(self._batch_size)
        trials.prepare(batches)
        batch_start = perf_counter_ns()
        compute_ns = trials.compute_ns(batches)
        batch_ns = perf_counter_ns() - batch_start
        feeding = self._feed(own, 1e9 * self._batch_size / max(1, compute_ns))
        return DeviceReady(
            plan=spec.plan,
            backend=spec.backend,
            precision=backend.precision,
            description=backend.description,
            batch_size=self._batch_size,
            warmup_ns=perf_counter_ns() - start,
            batch_ns=batch_ns,
            shard_size=self._shard_size,
            slots=self._slots,
            host=gethostname(),
            versions=tuple(sorted(versions(spec.backend, spec.plan.kind).items())),
            compute_ns=compute_ns,
            feeders=feeding.feeders,
            feeder_processes=feeding.processes,
            batches_in_flight=feeding.batches,
            reads_images=own.has_source,
        )

    def _feed(self, own: Preparation, images_per_s: float) -> Feeding:
        """Starts as many feeders as the rate of the device asks for.

        Args:
            own: preparation in the threads of this process.
            images_per_s: rate of the device.
        """
        spec = self._spec
        sample = spec.images.sample if spec.images else ""
        feeding = plan_feeding(
            images_per_s,
            preparation_s(own, sample),
            self._slots,
            spec.feeders,
            self._max_processes(),
        )
        if self._spread and feeding.processes:
            each = -(-feeding.feeders // feeding.processes)
            self._preparation = self._spread(spec, feeding.processes, each)
        else:
            own.feed(feeding.feeders)
        self._threads = ThreadPoolExecutor(feeding.batches, f"{spec.plan.name} batch")
        return feeding

    def _max_processes(self) -> int:
        """Returns how many processes can prepare images for the worker."""
        spec = self._spec
        is_simulated = spec.backend.startswith("simulated")
        # A device that computes on the host leaves no processors to further processes.
        if self._spread is None or (spec.plan.kind == "cpu" and not is_simulated):
            return 0
        return spec.simulation.host.cores if spec.simulation.host else num_cpus()

    def _open_backend(self) -> Backend:
        spec = self._spec
        options = BackendOptions(
            spec.precision,
            spec.plan.threads,
            max(spec.batch_sizes),
            spec.index,
            simulation=spec.simulation,
            keypoints=spec.keypoints,
        )
        return open_backend(spec.backend, self._model, options)

    def _trials(self) -> Trials:
        return Trials(
            self._queue, self._slots, self._profile, self._spec.keypoints, self._spec.scales
        )

    def _best_batch_size(self, trials: Trials) -> int:
        sizes = sorted(self._spec.batch_sizes)
        if self._spec.best_batch_size or len(sizes) == 1:
            return self._spec.best_batch_size or sizes[0]
        return trials.best_batch_size(sizes)


@contextmanager
def _named(device: str) -> Iterator[None]:
    """Adds the name of a device to the errors that the block raises."""
    try:
        yield
    except PoseEvalError as error:
        error.device = device
        raise
