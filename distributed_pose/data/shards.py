"""Converts shards, maps and detections to the Arrow batches that processes exchange.

Only this module names the columns of these batches.

Array legend: N images, K heatmaps, P PAF channels, H and W map size in cells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property, partial
from itertools import chain, islice
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distributed_pose.data.overlap import overlapped
from distributed_pose.data.sources import ImageSource
from distributed_pose.errors import ExecutionError
from distributed_pose.files.local import one_line
from distributed_pose.pose.assemble import Poses
from distributed_pose.pose.halves import float_to_half
from distributed_pose.records.images import Failure, Geometry, ImageRecord

# Images listed by name only; the worker reads the files.
LISTED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)
IMAGES = LISTED.append(pa.field("encoded", pa.binary()))

# The number of values per detection follows from the keypoint set, and is the same in all batches
# of a run; see `num_values`.
DETECTIONS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("score", pa.float64()),
        ("keypoints", pa.list_(pa.float64())),
    ]
)

# A shard ends early when its files exceed this size. With the file that exceeds it, a shard has at
# most half a GiB, and an Arrow column can hold 2 GiB.
MAX_SHARD_BYTES = 2**28

_GEOMETRY = tuple(field.name for field in fields(Geometry))


@dataclass(frozen=True)
class Shard:
    """Images that one worker evaluates together.

    Attributes:
        number: position of the shard in the dataset.
        images: record batch with schema `IMAGES`, or `LISTED` if the worker reads the files.
        failures: images of the shard that could not be read.
        read_ns: time to read each image, in nanoseconds.
    """

    number: int
    images: pa.RecordBatch
    failures: tuple[Failure, ...]
    read_ns: tuple[int, ...]

    @cached_property
    def image_bytes(self) -> int:
        """Size in bytes of the record batch; Arrow walks all columns to find it."""
        return int(self.images.nbytes)

    @cached_property
    def image_ids(self) -> tuple[int, ...]:
        """Ids of the images that could be read."""
        return tuple(self.images.column("image_id").to_pylist())


@dataclass(frozen=True)
class ImageMaps:
    """Network output for images of one input shape.

    Attributes:
        image_ids: id of each image.
        geometries: position of each image in its network input.
        heatmaps_NKHW: float32 or float16 [N, K, H, W].
        pafs_NPHW: float32 or float16 [N, P, H, W].
        scales: number of the scale that each image's maps were computed at; empty for one scale.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    heatmaps_NKHW: npt.NDArray[np.floating[Any]]
    pafs_NPHW: npt.NDArray[np.floating[Any]]
    scales: tuple[int, ...] = ()


def read_shards(images: Sequence[ImageRecord], source: ImageSource, size: int) -> Iterator[Shard]:
    """Yields shards of at most `size` images with their encoded bytes.

    The images are read on demand, or some ahead where each read takes milliseconds.

    An image that cannot be read is a failure of its shard and raises no error: not a regular file,
    a link out of the folder, or a file over `packed_groups.MAX_FILE_BYTES`.
    """
    reads = overlapped(partial(_timed_read, source), images)
    for number, first in enumerate(reads):
        yield _shard(number, chain([first], islice(reads, size - 1)))


def list_shards(images: Sequence[ImageRecord], size: int) -> Iterator[Shard]:
    """Yields shards of at most `size` images by name only, for workers that read the files."""
    columns = [[getattr(image, name) for image in images] for name in LISTED.names]
    listed = pa.record_batch(columns, schema=LISTED)
    for number, start in enumerate(range(0, len(images), size)):
        yield Shard(number, listed.slice(start, size), (), ())


def read_image(record: ImageRecord, source: ImageSource) -> bytes | Failure:
    """Returns the encoded bytes of an image, or a failure with the reason."""
    try:
        return source.read(record.file_name)
    # A name that the file system cannot encode raises a ValueError.
    except (OSError, ValueError) as error:
        text = source.location.cleaned(one_line(error))
        where = source.location.within(record.file_name)
        return Failure(record.image_id, record.file_name, f"cannot read {where}: {text}")


def num_images(shard: Shard) -> int:
    """Returns the number of images of a shard, including unreadable ones."""
    return int(shard.images.num_rows) + len(shard.failures)


def join_shards(shards: Sequence[Shard]) -> Shard:
    """Returns one shard with the images of one or more shards, and the number of the first."""
    if len(shards) == 1:
        return shards[0]
    table = pa.Table.from_batches([shard.images for shard in shards]).combine_chunks()
    empty = shards[0].images.slice(0, 0)
    return Shard(
        shards[0].number,
        next(iter(table.to_batches()), empty),
        tuple(failure for shard in shards for failure in shard.failures),
        tuple(ns for shard in shards for ns in shard.read_ns),
    )


def image_records(images: pa.RecordBatch) -> list[ImageRecord]:
    """Returns the images of a shard."""
    columns = (images.column(name).to_pylist() for name in LISTED.names)
    return [ImageRecord(*row) for row in zip(*columns, strict=True)]


def image_rows(images: pa.RecordBatch) -> Iterator[tuple[ImageRecord, bytes]]:
    """Yields each image of a shard with its encoded bytes."""
    return zip(image_records(images), images.column("encoded").to_pylist(), strict=True)


def rows_to_read(images: pa.RecordBatch) -> Iterator[tuple[ImageRecord, bytes | None]]:
    """Yields each image of a shard with its encoded bytes, or None if they are not read yet."""
    if "encoded" in images.schema.names:
        return image_rows(images)
    return ((record, None) for record in image_records(images))


def pack_images(images: pa.RecordBatch) -> pa.RecordBatch | bytes:
    """Returns a shard's images in the form that is sent to a worker.

    Images listed by name are small, and sending them as bytes takes a twentieth of the time.
    """
    return bytes(images.serialize()) if images.schema == LISTED else images


def unpack_images(packed: pa.RecordBatch | bytes) -> pa.RecordBatch:
    """Returns a shard's images from the form that is sent to a worker."""
    return pa.ipc.read_record_batch(packed, LISTED) if isinstance(packed, bytes) else packed


def narrowed(maps: ImageMaps) -> ImageMaps:
    """Returns maps as float16; arrays that are float16 already stay as they are."""
    heatmaps_NKHW, pafs_NPHW = (
        array if array.dtype == np.float16 else float_to_half(array)
        for array in (maps.heatmaps_NKHW, maps.pafs_NPHW)
    )
    return replace(maps, heatmaps_NKHW=heatmaps_NKHW, pafs_NPHW=pafs_NPHW)


def pack_maps(maps: ImageMaps) -> pa.RecordBatch:
    """Returns maps as one record batch: ids, geometry, and fixed-shape tensors."""
    geometry = np.array([astuple(g) for g in maps.geometries], np.int32).T
    return pa.record_batch(
        {
            "image_id": pa.array(maps.image_ids, pa.int64()),
            **{name: pa.array(column) for name, column in zip(_GEOMETRY, geometry, strict=True)},
            "heatmaps": pa.FixedShapeTensorArray.from_numpy_ndarray(maps.heatmaps_NKHW),
            "pafs": pa.FixedShapeTensorArray.from_numpy_ndarray(maps.pafs_NPHW),
        }
    )


def unpack_maps(batch: pa.RecordBatch) -> ImageMaps:
    """Returns the maps of a record batch; the arrays are read-only views of its buffers."""
    columns = [batch.column(name).to_numpy() for name in _GEOMETRY]
    return ImageMaps(
        tuple(batch.column("image_id").to_pylist()),
        tuple(Geometry(*map(int, row)) for row in zip(*columns, strict=True)),
        batch.column("heatmaps").to_numpy_ndarray(),
        batch.column("pafs").to_numpy_ndarray(),
    )


def pack_detections(image_ids_P: npt.NDArray[np.int64], poses: Poses) -> bytes:
    """Returns poses with their images' ids as a serialised record batch, schema `DETECTIONS`."""
    number, width = poses.keypoints_PV.shape
    ends = pa.array(np.arange(number + 1, dtype=np.int32) * np.int32(width))
    columns = [
        pa.array(image_ids_P),
        pa.array(poses.scores_P),
        pa.ListArray.from_arrays(ends, pa.array(poses.keypoints_PV.ravel())),
    ]
    return bytes(pa.record_batch(columns, schema=DETECTIONS).serialize())


def unpack_detections(serialised: bytes) -> list[dict[str, object]]:
    """Returns detections as rows with the keys of `DETECTIONS`."""
    rows: list[dict[str, object]] = pa.ipc.read_record_batch(serialised, DETECTIONS).to_pylist()
    return rows


def num_values(keypoints: pa.ListArray) -> int:
    """Returns the number of values that each detection of a column has; 0 without detections.

    Args:
        keypoints: column `keypoints` of the schema `DETECTIONS`.

    Raises:
        ValueError: if it differs between detections, or is not three per keypoint.
    """
    if keypoints.null_count:
        raise ValueError("a detection has no keypoints")
    lengths = pc.min_max(pc.list_value_length(keypoints)).as_py()
    least, most = lengths["min"] or 0, lengths["max"] or 0
    if least != most or least % 3 or (len(keypoints) and not least):
        raise ValueError(f"detections have {least} to {most} values, not three per keypoint")
    return int(most)


def detected_images(serialised: bytes) -> set[int]:
    """Returns the ids of the images that have detections.

    Raises:
        ExecutionError: if the bytes are not serialised detections, or a number is not finite.
    """
    try:
        detections = pa.ipc.read_record_batch(serialised, DETECTIONS)
        detections.validate(full=True)
        num_values(detections.column("keypoints"))
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ExecutionError(f"returned detections that cannot be read: {reason}") from None
    ids, scores, keypoints = detections.columns
    for numbers in (scores, keypoints.flatten()):
        # A missing number becomes one that is not finite.
        if not np.isfinite(numbers.to_numpy(zero_copy_only=False)).all():
            raise ExecutionError("returned detections that are not finite")
    return set(ids.to_pylist())


def keep_detections(serialised: bytes, image_ids: Sequence[int]) -> bytes:
    """Returns only the detections of the given images, serialised as before."""
    detections = pa.ipc.read_record_batch(serialised, DETECTIONS)
    kept = pc.is_in(detections.column("image_id"), pa.array(image_ids, pa.int64()))
    return bytes(detections.filter(kept).serialize())


def no_detections() -> bytes:
    """Returns a serialised record batch without detections."""
    return bytes(pa.record_batch([[], [], []], schema=DETECTIONS).serialize())


class _Read(NamedTuple):
    """An image that was read, or the reason why it was not, and the nanoseconds that it took."""

    record: ImageRecord
    answer: bytes | Failure
    read_ns: int


def _timed_read(source: ImageSource, record: ImageRecord) -> _Read:
    start = perf_counter_ns()
    answer = read_image(record, source)
    return _Read(record, answer, perf_counter_ns() - start)


def _shard(number: int, reads: Iterator[_Read]) -> Shard:
    """Takes images until they exceed `MAX_SHARD_BYTES`; the iterator keeps the remaining ones."""
    rows: list[tuple[Any, ...]] = []
    failures: list[Failure] = []
    read_ns: list[int] = []
    total_bytes = 0
    for record, encoded, duration_ns in reads:
        if isinstance(encoded, Failure):
            failures.append(encoded)
            continue
        read_ns.append(duration_ns)
        rows.append((record.image_id, record.file_name, record.height, record.width, encoded))
        total_bytes += len(encoded)
        if total_bytes > MAX_SHARD_BYTES:
            break
    return Shard(number, _batch(rows, IMAGES), tuple(failures), tuple(read_ns))


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)
