"""The Arrow batches that travel between driver, workers and reducers.

This is the one place that names their columns.

Array legend: N images, K heatmaps, P PAF channels, H and W map size in cells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.pose.assemble import Poses
from distributed_pose.pose.skeleton import NUM_COCO_KEYPOINTS
from distributed_pose.records import Failure, Geometry, ImageRecord

IMAGES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("encoded", pa.binary()),
    ]
)

DETECTIONS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("score", pa.float64()),
        ("keypoints", pa.list_(pa.float64(), 3 * NUM_COCO_KEYPOINTS)),
    ]
)

_GEOMETRY = tuple(field.name for field in fields(Geometry))


@dataclass(frozen=True)
class Shard:
    """Encoded images on their way to a worker.

    Attributes:
        number: position of the shard in the dataset.
        images: record batch, schema `IMAGES`.
        failures: images of the shard that could not be read.
        read_ns: reading time of each image.
    """

    number: int
    images: pa.RecordBatch
    failures: tuple[Failure, ...]
    read_ns: tuple[int, ...]


@dataclass(frozen=True)
class ImageMaps:
    """Network output for images of one input shape.

    Attributes:
        image_ids: N ids.
        geometries: N geometries.
        heatmaps_NKHW: float32 or float16.
        pafs_NPHW: likewise.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    heatmaps_NKHW: npt.NDArray[np.floating[Any]]
    pafs_NPHW: npt.NDArray[np.floating[Any]]


def read_shards(images: Sequence[ImageRecord], folder: Path, size: int) -> Iterator[Shard]:
    """Yields the images' encoded bytes in shards of at most `size`, read when they are asked for.

    An image that cannot be read is a failure of its shard, not an error.
    """
    remaining = iter(images)
    number = 0
    while records := list(islice(remaining, size)):
        yield _read_shard(number, records, folder)
        number += 1


def image_rows(images: pa.RecordBatch) -> Iterator[tuple[ImageRecord, bytes]]:
    """Yields each image of a shard with its encoded bytes."""
    for row in images.to_pylist():
        encoded = row.pop("encoded")
        yield ImageRecord(**row), encoded


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
    keypoints = pa.array(poses.keypoints_P51.ravel())
    columns = [
        pa.array(image_ids_P),
        pa.array(poses.scores_P),
        pa.FixedSizeListArray.from_arrays(keypoints, 3 * NUM_COCO_KEYPOINTS),
    ]
    return bytes(pa.record_batch(columns, schema=DETECTIONS).serialize())


def unpack_detections(serialised: bytes) -> list[dict[str, object]]:
    """Returns detections as rows with the keys of `DETECTIONS`."""
    rows: list[dict[str, object]] = pa.ipc.read_record_batch(serialised, DETECTIONS).to_pylist()
    return rows


def _read_shard(number: int, records: Sequence[ImageRecord], folder: Path) -> Shard:
    rows, failures, read_ns = [], [], []
    for record in records:
        start = perf_counter_ns()
        try:
            encoded = (folder / record.file_name).read_bytes()
        except OSError as error:
            reason = f"cannot read {folder / record.file_name}: {error.strerror}"
            failures.append(Failure(record.image_id, record.file_name, reason))
            continue
        read_ns.append(perf_counter_ns() - start)
        rows.append((record.image_id, record.file_name, record.height, record.width, encoded))
    columns = zip(*rows, strict=True) if rows else [[] for _ in IMAGES]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, IMAGES, strict=True)]
    batch = pa.record_batch(arrays, schema=IMAGES)
    return Shard(number, batch, tuple(failures), tuple(read_ns))
