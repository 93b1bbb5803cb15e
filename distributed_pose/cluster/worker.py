"""The worker: encoded images in, heatmaps and PAFs out, on one device.

Array legend: N images, H and W size in pixels, 3 the channels blue, green, red.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from socket import gethostname
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    InputBatch,
    Maps,
    check_maps,
)
from distributed_pose.backends.registry import open_backend
from distributed_pose.cluster.node_versions import versions
from distributed_pose.cluster.preparation import Preparation
from distributed_pose.cluster.reducer import Reducer, Reduction
from distributed_pose.data.shards import ImageMaps, pack_maps, read_image
from distributed_pose.data.sources import ImageSource, open_images
from distributed_pose.errors import PoseEvalError, SetupError
from distributed_pose.metrics.throughput import best_batch_size
from distributed_pose.recordings.pads import output_name
from distributed_pose.recordings.recording import Recording
from distributed_pose.records import (
    Damage,
    DeviceReady,
    Durations,
    Failure,
    Geometry,
    ImageRecord,
    ImagesToRead,
    WorkerSpec,
)
from distributed_pose.vision.preprocess import InputArray, preprocess
from distributed_pose.vision.profiles import PROFILES

_LOG = logging.getLogger(__name__)

# What maps are converted to before they travel. Halves stay halves: the decoder widens them.
_DTYPES: dict[str, type[np.float16] | None] = {"f32": None, "f16": np.float16}

# Id of an input that is no image of the dataset.
_NO_IMAGE = -1

# Relative difference of maps that shows the images of a batch to be mixed: none was measured in
# networks with frozen statistics, 260 % in the PAFs of one with statistics of the batch.
_MIXING_TOLERANCE = 0.05

# How long the sweep at the start of a run measures each batch size, and how often at least.
_QUICK_SWEEP_S = 0.5
_LEAST_BATCHES = 3


@dataclass(frozen=True)
class WorkerReport:
    """What the driver learns of a shard from its worker.

    Attributes:
        image_ids: images whose maps were made.
        encoded_bytes: file size of each of them.
        failures: images that could not be decoded, or read where the worker reads.
        damaged: images whose maps were made and whose file is damaged.
        digests: of the bytes of each image whose maps were made.
        durations: stages `decode_jpeg`, `preprocess` and `inference`, and `read` where it does.
        pack_ns: time to make Arrow batches of the maps.
        maps_bytes: size of those batches.
    """

    image_ids: tuple[int, ...]
    encoded_bytes: tuple[int, ...]
    failures: tuple[Failure, ...]
    durations: Durations
    pack_ns: int = 0
    maps_bytes: int = 0
    damaged: tuple[Damage, ...] = ()
    digests: tuple[str, ...] = ()


class Worker:
    """Runs shards through one device.

    `infer` and `infer_and_group` may be called by several threads at once: each prepares its own
    shard, and one thread owns the device, so the next shard is prepared while this one is inferred.
    """

    def __init__(self, spec: WorkerSpec, model: bytes) -> None:
        self._spec = spec
        self._model = model
        self._profile = PROFILES[spec.profile]
        self._device_thread = ThreadPoolExecutor(1, thread_name_prefix=spec.plan.name)
        self._backend: Backend | None = None
        self._batch_size = self._shard_size = max(spec.batch_sizes)
        self._reducer = Reducer()
        self._preparation = self._new_preparation(None)
        self._dump = Recording(spec.dump_folder) if spec.dump_folder else None

    def start(self) -> DeviceReady:
        """Returns when the model is loaded and warmed up.

        Raises:
            SetupError: if the device or the model cannot be used.
        """
        return self._device_thread.submit(self._start).result()

    def infer(self, images: pa.RecordBatch) -> tuple[list[pa.RecordBatch], WorkerReport]:
        """Returns the maps of a shard, a record batch for each batch of inputs, and the report.

        Args:
            images: schema `data.shards.IMAGES`.

        Raises:
            ExecutionError: if the device fails or answers nonsense.
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
        """Returns the detections of a shard, grouped beside the device, and the report.

        Arguments and errors are those of `infer`.
        """
        reports: list[WorkerReport] = []
        reduction = self._reducer.group(self._inferred(images, reports))
        return reduction, _joined(reports)

    def _inferred(self, images: pa.RecordBatch, reports: list[WorkerReport]) -> Iterator[ImageMaps]:
        """Yields the maps of a shard batch by batch, and adds a report of each."""
        for start in range(0, images.num_rows, self._shard_size):
            maps, report = self._infer_part(images.slice(start, self._shard_size))
            reports.append(report)
            yield from maps

    def _infer_part(self, images: pa.RecordBatch) -> tuple[list[ImageMaps], WorkerReport]:
        prepared = self._preparation.prepare(images, self._batch_size)
        batches = prepared.batches
        maps, inference_ns = self._device_thread.submit(self._infer, batches).result()
        dtype = _DTYPES[self._spec.maps_dtype]
        converted = [_image_maps(batch, m, dtype) for batch, m in zip(batches, maps, strict=True)]
        if self._dump:
            _write_maps(self._dump, images, converted)
        image_ids = tuple(image_id for batch in batches for image_id in batch.image_ids)
        sizes = tuple(prepared.encoded_bytes[image_id] for image_id in image_ids)
        durations = {stage: tuple(times) for stage, times in prepared.durations.items()}
        durations["inference"] = tuple(inference_ns)
        return converted, WorkerReport(
            image_ids,
            sizes,
            tuple(prepared.failures),
            durations,
            damaged=tuple(prepared.damaged),
            digests=tuple(prepared.digests[image_id] for image_id in image_ids),
        )

    def sweep(self, batch_size: int, least_s: float) -> tuple[int, ...]:
        """Returns how long batches of a size take, in nanoseconds each, compute only.

        Args:
            batch_size: images in each.
            least_s: how long to measure.

        Raises:
            ExecutionError: if the device fails.
        """
        return self._device_thread.submit(self._sweep, batch_size, least_s).result()

    def close(self) -> None:
        """Frees the device; may be called again."""
        if self._backend:
            self._device_thread.submit(self._backend.close).result()
            self._backend = None
        self._device_thread.shutdown()

    def _start(self) -> DeviceReady:
        start = perf_counter_ns()
        spec = self._spec
        try:
            if spec.images:
                self._preparation = self._new_preparation(_open_images(spec.images, spec.plan.node))
            options = BackendOptions(
                spec.precision,
                spec.plan.threads,
                max(spec.batch_sizes),
                spec.index,
                simulation=spec.simulation,
            )
            self._backend = open_backend(spec.backend, self._model, options)
            mixes = max(spec.batch_sizes) > 1 and self._mixes_images()
            shard_size = self._best_batch_size()
            self._batch_size = 1 if mixes else shard_size
            self._shard_size = shard_size
            batch = _warmup_batch(self._warmup_inputs(self._batch_size))
            batch_start = perf_counter_ns()
            self._backend_infer(batch)
            batch_ns = perf_counter_ns() - batch_start
        # Before any image of the dataset is met, whatever goes wrong is the model or the device.
        except PoseEvalError as error:
            raise SetupError(error.message, error.hint, device=spec.plan.name) from None
        if spec.gather == "poses":
            self._reducer.warm_up()
        return DeviceReady(
            spec.plan,
            spec.backend,
            self._backend.precision,
            self._backend.description,
            self._batch_size,
            perf_counter_ns() - start,
            batch_ns,
            shard_size,
            gethostname(),
            tuple(sorted(versions(spec.backend, spec.plan.kind).items())),
        )

    def _new_preparation(self, source: ImageSource | None) -> Preparation:
        fails_damaged = self._spec.damaged == "fail"
        return Preparation(self._profile, source, fails_damaged=fails_damaged)

    def _best_batch_size(self) -> int:
        sizes = sorted(self._spec.batch_sizes)
        if self._spec.best_batch_size or len(sizes) == 1:
            return self._spec.best_batch_size or sizes[0]
        durations_ns: dict[int, tuple[int, ...]] = {}
        for size in sizes:
            try:
                durations_ns[size] = self._sweep(size, _QUICK_SWEEP_S)
            except PoseEvalError as error:
                if not durations_ns:
                    raise
                # What does not fit into its memory is not the best, nor is what is larger.
                _LOG.warning("%s: batches of %d: %s", self._spec.plan.name, size, error)
                break
        return best_batch_size(durations_ns)

    def _sweep(self, batch_size: int, least_s: float) -> tuple[int, ...]:
        batch = _warmup_batch(self._warmup_inputs(batch_size))
        # Once for what is made at the first batch of a size, such as plans and graphs.
        self._backend_infer(batch)
        durations_ns: list[int] = []
        while len(durations_ns) < _LEAST_BATCHES or sum(durations_ns) < least_s * 1e9:
            start = perf_counter_ns()
            self._backend_infer(batch)
            durations_ns.append(perf_counter_ns() - start)
        return tuple(durations_ns)

    def _mixes_images(self) -> bool:
        """Returns whether an image's maps depend on its neighbours in the batch.

        So they do in networks whose batch normalisation still computes statistics of the batch,
        as exports of a training graph have it. Their images must be inferred one by one.
        """
        inputs_N3HW = self._warmup_inputs(2)
        together = self._backend_infer(_warmup_batch(inputs_N3HW))
        alone = self._backend_infer(_warmup_batch(inputs_N3HW[:1]))
        return any(
            _norm(pair[0] - single[0]) > _MIXING_TOLERANCE * _norm(single[0])
            for pair, single in zip(together, alone, strict=True)
        )

    def _warmup_inputs(self, count: int) -> InputArray:
        """Returns noise first and plain grey after it, as unlike as two images can be."""
        profile = self._profile
        height, width = profile.nominal_input
        inputs_N3HW = np.full((count, 3, height, width), profile.padding, profile.input_dtype)
        noise_HW3 = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        preprocess(noise_HW3, profile, inputs_N3HW[0])
        return inputs_N3HW

    def _infer(self, batches: list[InputBatch]) -> tuple[list[Maps], list[int]]:
        maps, durations_ns = [], []
        for batch in batches:
            start = perf_counter_ns()
            maps.append(self._backend_infer(batch))
            durations_ns.append(perf_counter_ns() - start)
        return maps, durations_ns

    def _backend_infer(self, batch: InputBatch) -> Maps:
        if self._backend is None:
            raise SetupError("the worker is not started", device=self._spec.plan.name)
        try:
            return check_maps(self._backend.infer(batch), batch)
        except PoseEvalError as error:
            error.device = self._spec.plan.name
            raise


def _norm(array: npt.NDArray[np.float32 | np.float16]) -> float:
    # A sum of squares soon leaves the range of halves.
    return float(np.linalg.norm(array.astype(np.float32)))


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


def _open_images(images: ImagesToRead, node: str) -> ImageSource:
    """Returns the images that a worker reads.

    Raises:
        SetupError: if its node does not have them.
    """
    where = f"on node {node}: " if node else ""
    hint = "all nodes must see the images in the same place, or set data.read=driver"
    try:
        source = open_images(images.location)
    except SetupError as error:
        raise SetupError(f"{where}{error.message}", hint) from None
    if images.sample:
        answer = read_image(ImageRecord(_NO_IMAGE, images.sample, 0, 0), source)
        if isinstance(answer, Failure):
            raise SetupError(f"{where}{answer.reason}", hint)
    return source


def _warmup_batch(inputs_N3HW: InputArray) -> InputBatch:
    count, _, height, width = inputs_N3HW.shape
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch((_NO_IMAGE,) * count, (geometry,) * count, inputs_N3HW)


def _image_maps(batch: InputBatch, maps: Maps, dtype: type[np.float16] | None) -> ImageMaps:
    heatmaps, pafs = (np.ascontiguousarray(array, dtype) for array in maps)
    return ImageMaps(batch.image_ids, batch.geometries, heatmaps, pafs)


def _write_maps(recording: Recording, images: pa.RecordBatch, maps: list[ImageMaps]) -> None:
    """Writes the maps as the decoder gets them, so that other code decodes them to the same."""
    ids, file_names = (images.column(name).to_pylist() for name in ("image_id", "file_name"))
    names = {i: output_name(file_name) for i, file_name in zip(ids, file_names, strict=True)}
    for batch in maps:
        parts = zip(batch.image_ids, batch.heatmaps_NKHW, batch.pafs_NPHW, strict=True)
        for image_id, heatmaps_KHW, pafs_PHW in parts:
            recording.write(names[image_id], heatmaps_KHW, pafs_PHW)
