"""The worker: encoded images in, heatmaps and PAFs out, on one device."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.backends.base import Backend, InputBatch, Maps, check_maps
from distributed_pose.backends.registry import open_backend
from distributed_pose.data.shards import ImageMaps, image_rows, pack_maps
from distributed_pose.errors import PoseEvalError, SetupError
from distributed_pose.records import (
    DevicePlan,
    DeviceReady,
    Durations,
    Failure,
    Geometry,
    ImageRecord,
)
from distributed_pose.vision.preprocess import UndecodableImageError, decode_image, preprocess
from distributed_pose.vision.profiles import PROFILES

_DTYPES: dict[str, type[np.floating[Any]]] = {"f32": np.float32, "f16": np.float16}

# Id of an input that is no image of the dataset.
_NO_IMAGE = -1

# Relative difference of maps that shows the images of a batch to be mixed: none was measured in
# networks with frozen statistics, 260 % in the PAFs of one with statistics of the batch.
_MIXING_TOLERANCE = 0.05


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is; travels by value into its constructor.

    Attributes:
        plan: the device.
        backend: name in the registry.
        precision: requested precision.
        profile: name of the preprocessing profile.
        batch_size: most images in a batch.
        maps_dtype: `f32` or `f16`, of maps on their way to the reducer.
    """

    plan: DevicePlan
    backend: str
    precision: str
    profile: str
    batch_size: int
    maps_dtype: str


@dataclass(frozen=True)
class WorkerReport:
    """What the driver learns of a shard from its worker.

    Attributes:
        image_ids: images whose maps were made.
        failures: images that could not be decoded.
        durations: stages `decode_jpeg`, `preprocess` and `inference`.
        pack_ns: time to make Arrow batches of the maps.
    """

    image_ids: tuple[int, ...]
    failures: tuple[Failure, ...]
    durations: Durations
    pack_ns: int


class _Prepared(NamedTuple):
    record: ImageRecord
    geometry: Geometry
    input_3HW: npt.NDArray[np.float32]


class Worker:
    """Runs shards through one device.

    `process` may be called by several threads at once: each prepares its own shard, and one
    thread owns the device, so the next shard is prepared while this one is inferred.
    """

    def __init__(self, spec: WorkerSpec, model: bytes) -> None:
        self._spec = spec
        self._model = model
        self._profile = PROFILES[spec.profile]
        self._device_thread = ThreadPoolExecutor(1, thread_name_prefix=spec.plan.name)
        self._backend: Backend | None = None
        self._batch_size = spec.batch_size

    def start(self) -> DeviceReady:
        """Returns when the model is loaded and warmed up.

        Raises:
            SetupError: if the device or the model cannot be used.
        """
        return self._device_thread.submit(self._start).result()

    def process(self, images: pa.RecordBatch) -> tuple[list[pa.RecordBatch], WorkerReport]:
        """Returns the maps of a shard, a record batch for each input shape, and the report.

        Args:
            images: schema `data.shards.IMAGES`.

        Raises:
            ExecutionError: if the device fails or answers nonsense.
        """
        prepared, failures, durations = self._prepare(images)
        batches = _group_by_shape(prepared, self._batch_size)
        answered = self._device_thread.submit(self._infer, batches)
        maps, durations["inference"] = answered.result()
        start = perf_counter_ns()
        dtype = _DTYPES[self._spec.maps_dtype]
        packed = [_pack(batch, m, dtype) for batch, m in zip(batches, maps, strict=True)]
        report = WorkerReport(
            tuple(image_id for batch in batches for image_id in batch.image_ids),
            tuple(failures),
            {stage: tuple(durations_ns) for stage, durations_ns in durations.items()},
            perf_counter_ns() - start,
        )
        return packed, report

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
            self._backend = open_backend(
                spec.backend, self._model, precision=spec.precision, threads=spec.plan.threads
            )
            if spec.batch_size > 1 and self._mixes_images():
                self._batch_size = 1
            self._backend_infer(_warmup_batch(self._warmup_inputs(self._batch_size)))
        # Before any image of the dataset is met, whatever goes wrong is the model or the device.
        except PoseEvalError as error:
            raise SetupError(error.message, error.hint, device=spec.plan.name) from None
        return DeviceReady(
            spec.plan,
            spec.backend,
            self._backend.precision,
            self._backend.description,
            self._batch_size,
            perf_counter_ns() - start,
        )

    def _mixes_images(self) -> bool:
        """Returns whether an image's maps depend on its neighbours in the batch.

        So they do in networks whose batch normalisation still computes statistics of the batch,
        as exports of a training graph have it. Their images must be inferred one by one.
        """
        inputs_N3HW = self._warmup_inputs(2)
        together = self._backend_infer(_warmup_batch(inputs_N3HW))
        alone = self._backend_infer(_warmup_batch(inputs_N3HW[:1]))
        return any(
            float(np.linalg.norm(pair[0] - single[0]))
            > _MIXING_TOLERANCE * float(np.linalg.norm(single[0]))
            for pair, single in zip(together, alone, strict=True)
        )

    def _warmup_inputs(self, count: int) -> npt.NDArray[np.float32]:
        """Returns noise first and plain grey after it, as unlike as two images can be."""
        inputs_N3HW = np.zeros((count, 3, *self._profile.nominal_input), np.float32)
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, inputs_N3HW.shape[1:])
        inputs_N3HW[0] = noise
        return inputs_N3HW

    def _prepare(
        self, images: pa.RecordBatch
    ) -> tuple[list[_Prepared], list[Failure], dict[str, list[int]]]:
        prepared, failures = [], []
        durations: dict[str, list[int]] = {"decode_jpeg": [], "preprocess": []}
        for record, encoded in image_rows(images):
            start = perf_counter_ns()
            try:
                image_HW3 = decode_image(encoded, record.height, record.width)
            except UndecodableImageError as error:
                failures.append(Failure(record.image_id, record.file_name, str(error)))
                continue
            decoded = perf_counter_ns()
            input_3HW, geometry = preprocess(image_HW3, self._profile)
            durations["decode_jpeg"].append(decoded - start)
            durations["preprocess"].append(perf_counter_ns() - decoded)
            prepared.append(_Prepared(record, geometry, input_3HW))
        return prepared, failures, durations

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


def _warmup_batch(inputs_N3HW: npt.NDArray[np.float32]) -> InputBatch:
    count, _, height, width = inputs_N3HW.shape
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch((_NO_IMAGE,) * count, (geometry,) * count, inputs_N3HW)


def _group_by_shape(prepared: list[_Prepared], batch_size: int) -> list[InputBatch]:
    groups: dict[tuple[int, ...], list[_Prepared]] = defaultdict(list)
    for item in prepared:
        groups[item.input_3HW.shape].append(item)
    return [
        _batch(group[start : start + batch_size])
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]


def _batch(items: list[_Prepared]) -> InputBatch:
    return InputBatch(
        tuple(item.record.image_id for item in items),
        tuple(item.geometry for item in items),
        np.stack([item.input_3HW for item in items]),
    )


def _pack(batch: InputBatch, maps: Maps, dtype: type[np.floating[Any]]) -> pa.RecordBatch:
    heatmaps, pafs = (np.ascontiguousarray(array, dtype) for array in maps)
    return pack_maps(ImageMaps(batch.image_ids, batch.geometries, heatmaps, pafs))
