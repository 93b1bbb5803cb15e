"""The reducer: heatmaps and PAFs in, detections out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from time import perf_counter_ns

import numpy as np
import pyarrow as pa

from distributed_pose.data.shards import ImageMaps, pack_detections, unpack_maps
from distributed_pose.errors import ExecutionError
from distributed_pose.pose.assemble import Poses
from distributed_pose.pose.decode import Decoder
from distributed_pose.records import DECODE_STAGES, Durations


class ForeignMapsError(ExecutionError):
    """Maps of other images than the expected ones, which is a fault of their worker."""


@dataclass(frozen=True)
class Reduction:
    """The detections of one shard.

    Attributes:
        image_ids: ids of all images with maps, including those without detections.
        detections: serialised Arrow record batch, schema `data.shards.DETECTIONS`.
        durations: nanoseconds per grouped image in the stages `peaks`, `limbs` and `assemble`.
        unpack_ns: nanoseconds to read the Arrow batches.
        failures: reason by id of each image whose heatmaps are no pose heatmaps.
    """

    image_ids: tuple[int, ...]
    detections: bytes
    durations: Durations
    unpack_ns: int = 0
    failures: Mapping[int, str] = field(default_factory=dict)


class Reducer:
    """Groups maps into people, in buffers that it keeps.

    No result depends on earlier ones, so any reducer may take any shard, also a second time. It is
    thread-safe; threads take turns.
    """

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._turn = Lock()

    def warm_up(self) -> None:
        """Compiles or loads the decoder's code, so that no shard waits for it."""
        with self._turn:
            self._decoder.warm_up()

    def reduce(self, maps: Sequence[pa.RecordBatch], image_ids: Sequence[int]) -> Reduction:
        """Returns the detections in a shard's maps.

        Args:
            maps: record batches as `data.shards.pack_maps` makes them.
            image_ids: ids of the images that the maps must belong to.

        Raises:
            ForeignMapsError: if the maps belong to other images.
        """
        start = perf_counter_ns()
        unpacked = [unpack_maps(batch) for batch in maps]
        found = sorted(image_id for batch in unpacked for image_id in batch.image_ids)
        if found != sorted(image_ids):
            raise ForeignMapsError(
                f"its maps are of images {found} instead of {sorted(image_ids)}",
                image_ids=image_ids,
            )
        unpack_ns = perf_counter_ns() - start
        return replace(self.group(unpacked), unpack_ns=unpack_ns)

    def group(self, maps: Iterable[ImageMaps]) -> Reduction:
        """Returns the detections in maps that are in this process already."""
        grouped: list[int] = []
        failures: dict[int, str] = {}
        image_ids = [np.empty(0, np.int64)]
        poses = [Poses(np.empty((0, 51)), np.empty(0))]
        durations = [np.empty((0, len(DECODE_STAGES)), np.int64)]
        for batch in maps:
            with self._turn:
                decoded = self._decoder.decode_batch(
                    batch.heatmaps_NKHW, batch.pafs_NPHW, batch.geometries
                )
            grouped += batch.image_ids
            failures |= {batch.image_ids[row]: why for row, why in decoded.failures.items()}
            image_ids.append(np.repeat(np.array(batch.image_ids, np.int64), decoded.counts_N))
            poses.append(decoded.poses)
            durations.append(np.delete(decoded.durations_ns_N3, [*decoded.failures], axis=0))
        detections = pack_detections(
            np.concatenate(image_ids),
            Poses(*(np.concatenate(part) for part in zip(*poses, strict=True))),
        )
        by_stage = zip(DECODE_STAGES, np.concatenate(durations).T.tolist(), strict=True)
        durations_ns = {stage: tuple(ns) for stage, ns in by_stage}
        return Reduction(tuple(grouped), detections, durations_ns, failures=failures)
