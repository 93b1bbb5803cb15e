"""The worker, which turns encoded images into heatmaps and PAFs on one device.

Array legend: N images, H and W size in pixels, 3 the channels blue, green, red.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from socket import gethostname
from time import perf_counter_ns

import numpy as np
import pyarrow as pa

from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    Inference,
    InputBatch,
    NetworkOutput,
    check_maps,
)
from distributed_pose.backends.registry import open_backend
from distributed_pose.data.shards import ImageMaps, narrowed, pack_maps, read_image
from distributed_pose.data.sources import ImageSource, open_images
from distributed_pose.engine.device_queue import DeviceQueue
from distributed_pose.engine.node_versions import versions
from distributed_pose.engine.preparation import Preparation, Prepared
from distributed_pose.engine.reducer import Reducer, Reduction
from distributed_pose.engine.trials import NO_IMAGE, Sweep, Trials
from distributed_pose.errors import BackendError, PoseEvalError, SetupError
from distributed_pose.recordings.pads import output_name
from distributed_pose.recordings.recording import Recording
from distributed_pose.records import (
    DEVICE_STAGES,
    Damage,
    DevicePlan,
    DeviceReady,
    Durations,
    Failure,
    ImageRecord,
    ImagesToRead,
    WorkerSpec,
)
from distributed_pose.vision.profiles import PROFILES

# Type of the maps that travel to the reducer. None keeps the type that the backend returns, because
# the decoder widens float16 itself.
_DTYPES: dict[str, type[np.float16] | None] = {"f32": None, "f16": np.float16}


@dataclass(frozen=True)
class WorkerReport:
    """The report of a worker to the driver about one shard.

    Attributes:
        image_ids: ids of the images that have maps.
        encoded_bytes: file size in bytes of each image in `image_ids`.
        failures: images that could not be decoded, or not be read if the worker reads them.
        durations: durations in nanoseconds by stage. `decode_jpeg` and `preprocess` have one per
            image, and so has `read` if the worker reads; `copy_in`, `compute`, `copy_out` and
            `check` have one per batch.
        pack_ns: time in nanoseconds to pack the maps into Arrow record batches.
        maps_bytes: size in bytes of the Arrow record batches of maps.
        damaged: images that have maps although their file is damaged.
        digests: digest of the encoded bytes of each image in `image_ids`.
    """

    image_ids: tuple[int, ...]
    encoded_bytes: tuple[int, ...]
    failures: tuple[Failure, ...]
    durations: Durations
    pack_ns: int = 0
    maps_bytes: int = 0
    damaged: tuple[Damage, ...] = ()
    digests: tuple[str, ...] = ()


@dataclass
class _Part:
    """Images of a shard on their way through the device.

    Attributes:
        images: images of the shard, as the driver sent them.
        prepared: batches of inputs made of the images, and the images that failed.
        answers: pending answer of the device to each prepared batch, in the order of the batches.
    """

    images: pa.RecordBatch
    prepared: Prepared
    answers: list[Future[Inference]]


class Worker:
    """Runs shards through one device.

    Several threads may call `infer` and `infer_and_group` at once. Each thread prepares its own
    shard and a single thread owns the device, so the next shard is prepared while the device runs
    this one.

    Args:
        spec: specification of the worker: device, backend, precision and batch sizes.
        model: content of the model or artifact that the backend loads.
    """

    def __init__(self, spec: WorkerSpec, model: bytes) -> None:
        self._spec = spec
        self._model = model
        self._profile = PROFILES[spec.profile]
        self._queue = DeviceQueue(spec.plan.name)
        self._slots = 1
        self._batch_size = self._shard_size = max(spec.batch_sizes)
        self._reducer = Reducer()
        self._preparation = self._new_preparation(None)
        self._dump = Recording(spec.dump_folder) if spec.dump_folder else None

    def start(self) -> DeviceReady:
        """Loads and warms up the model, and returns the description of the ready device.

        Raises:
            BackendError: if the device or the model cannot be used.
            SetupError: if the worker reads the images and its node does not have them.
        """
        spec = self._spec
        if spec.images:
            self._preparation = self._new_preparation(_open_images(spec.images, spec.plan))
        try:
            return self._start()
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
        reports: list[WorkerReport] = []
        packed, pack_ns = [], 0
        for maps in self._inferred(images, reports):
            start = perf_counter_ns()
            packed.append(pack_maps(maps))
            pack_ns += perf_counter_ns() - start
        size_bytes = sum(batch.nbytes for batch in packed)
        return packed, replace(_joined(reports), pack_ns=pack_ns, maps_bytes=size_bytes)

    def infer_and_group(self, images: pa.RecordBatch) -> tuple[Reduction, WorkerReport]:
        """Returns the detections of a shard, grouped in the worker, and the report.

        Args:
            images: images of the shard, in the schema `data.shards.IMAGES`.

        Raises:
            ExecutionError: if the device fails or returns invalid maps.
        """
        reports: list[WorkerReport] = []
        reduction = self._reducer.group(self._inferred(images, reports))
        return reduction, _joined(reports)

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

    def close(self) -> None:
        """Frees the device; further calls do nothing."""
        self._queue.close()

    def _inferred(self, images: pa.RecordBatch, reports: list[WorkerReport]) -> Iterator[ImageMaps]:
        """Yields the maps of a shard batch by batch, and appends a report per part to `reports`.

        If the device has several slots, further parts are prepared while it runs the first one.
        """
        parts: deque[_Part] = deque()
        try:
            for start in range(0, images.num_rows, self._shard_size):
                parts.append(self._submitted(images.slice(start, self._shard_size)))
                if len(parts) >= self._slots:
                    yield from self._finished(parts, reports)
            while parts:
                yield from self._finished(parts, reports)
        finally:
            for part in parts:
                for answer in part.answers:
                    answer.cancel()

    def _submitted(self, images: pa.RecordBatch) -> _Part:
        prepared = self._preparation.prepare(images, self._batch_size)
        with _named(self._spec.plan.name):
            answers = [self._queue.submit(batch) for batch in prepared.batches]
        return _Part(images, prepared, answers)

    def _finished(self, parts: deque[_Part], reports: list[WorkerReport]) -> list[ImageMaps]:
        """Waits for the maps of the first part, returns them, and appends the part's report."""
        part = parts[0]
        durations: dict[str, list[int]] = defaultdict(list, part.prepared.durations)
        with _named(self._spec.plan.name):
            maps = [
                _checked(batch, answer.result(), durations)
                for batch, answer in zip(part.prepared.batches, part.answers, strict=True)
            ]
        dtype = _DTYPES[self._spec.maps_dtype]
        batches = zip(part.prepared.batches, maps, strict=True)
        converted = [_image_maps(batch, answer, dtype) for batch, answer in batches]
        if self._dump:
            _write_maps(self._dump, part.images, converted)
        reports.append(_report(part.prepared, durations))
        parts.popleft()
        return converted

    def _start(self) -> DeviceReady:
        start = perf_counter_ns()
        spec = self._spec
        backend = self._queue.open(self._open_backend)
        self._slots = backend.slots
        trials = self._trials()
        mixes = max(spec.batch_sizes) > 1 and trials.mixes_images()
        self._shard_size = self._best_batch_size(trials)
        self._batch_size = 1 if mixes else self._shard_size
        batch = trials.batch(self._batch_size)
        self._queue.prepare(batch)
        batch_start = perf_counter_ns()
        trials.infer(batch)
        batch_ns = perf_counter_ns() - batch_start
        if spec.gather == "poses":
            self._reducer.warm_up()
        return DeviceReady(
            spec.plan,
            spec.backend,
            backend.precision,
            backend.description,
            self._batch_size,
            perf_counter_ns() - start,
            batch_ns,
            self._shard_size,
            self._slots,
            gethostname(),
            tuple(sorted(versions(spec.backend, spec.plan.kind).items())),
        )

    def _open_backend(self) -> Backend:
        spec = self._spec
        options = BackendOptions(
            spec.precision,
            spec.plan.threads,
            max(spec.batch_sizes),
            spec.index,
            simulation=spec.simulation,
        )
        return open_backend(spec.backend, self._model, options)

    def _trials(self) -> Trials:
        return Trials(self._queue, self._slots, self._profile)

    def _new_preparation(self, source: ImageSource | None) -> Preparation:
        fails_damaged = self._spec.damaged == "fail"
        return Preparation(self._profile, source, fails_damaged=fails_damaged)

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


def _checked(
    batch: InputBatch, answer: Inference, durations: dict[str, list[int]]
) -> NetworkOutput:
    """Returns the checked maps of a batch, and appends its durations by stage."""
    start = perf_counter_ns()
    maps = check_maps(answer.maps, batch)
    durations["check"].append(perf_counter_ns() - start)
    for stage, time_ns in zip(DEVICE_STAGES, answer.times.by_stage, strict=True):
        durations[stage].append(time_ns)
    return maps


def _report(prepared: Prepared, durations: Mapping[str, Sequence[int]]) -> WorkerReport:
    image_ids = tuple(image_id for batch in prepared.batches for image_id in batch.image_ids)
    return WorkerReport(
        image_ids,
        tuple(prepared.encoded_bytes[image_id] for image_id in image_ids),
        tuple(prepared.failures),
        {stage: tuple(times_ns) for stage, times_ns in durations.items()},
        damaged=tuple(prepared.damaged),
        digests=tuple(prepared.digests[image_id] for image_id in image_ids),
    )


def _joined(reports: Sequence[WorkerReport]) -> WorkerReport:
    durations: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for report in reports:
        for stage, times_ns in report.durations.items():
            durations[stage] += times_ns
    return WorkerReport(
        tuple(chain.from_iterable(report.image_ids for report in reports)),
        tuple(chain.from_iterable(report.encoded_bytes for report in reports)),
        tuple(chain.from_iterable(report.failures for report in reports)),
        dict(durations),
        damaged=tuple(chain.from_iterable(report.damaged for report in reports)),
        digests=tuple(chain.from_iterable(report.digests for report in reports)),
    )


def _open_images(images: ImagesToRead, plan: DevicePlan) -> ImageSource:
    """Returns the source of the images that a worker reads.

    Raises:
        SetupError: if the node of the worker does not have the images.
    """
    where = f"on node {plan.node}: " if plan.node else ""
    hint = "all nodes must see the images in the same place, or set data.read=driver"
    try:
        source = open_images(images.location)
    except SetupError as error:
        raise SetupError(f"{where}{error.message}", hint, device=plan.name) from None
    if images.sample:
        answer = read_image(ImageRecord(NO_IMAGE, images.sample, 0, 0), source)
        if isinstance(answer, Failure):
            raise SetupError(f"{where}{answer.reason}", hint, device=plan.name)
    return source


def _image_maps(
    batch: InputBatch, maps: NetworkOutput, dtype: type[np.float16] | None
) -> ImageMaps:
    heatmaps, pafs = map(np.ascontiguousarray, maps)
    found = ImageMaps(batch.image_ids, batch.geometries, heatmaps, pafs)
    return narrowed(found) if dtype else found


def _write_maps(recording: Recording, images: pa.RecordBatch, maps: list[ImageMaps]) -> None:
    """Records the maps that the decoder receives, so that other code decodes the same poses."""
    ids, file_names = (images.column(name).to_pylist() for name in ("image_id", "file_name"))
    names = {i: output_name(file_name) for i, file_name in zip(ids, file_names, strict=True)}
    for batch in maps:
        parts = zip(batch.image_ids, batch.heatmaps_NKHW, batch.pafs_NPHW, strict=True)
        for image_id, heatmaps_KHW, pafs_PHW in parts:
            recording.write(names[image_id], heatmaps_KHW, pafs_PHW)
