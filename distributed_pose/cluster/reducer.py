"""The reducer: heatmaps and PAFs in, detections out."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
import pyarrow as pa

from distributed_pose.data.shards import pack_detections, unpack_maps
from distributed_pose.pose.decode import decode


@dataclass(frozen=True)
class Reduction:
    """What a reducer makes of one shard.

    Attributes:
        detections: serialised Arrow record batch, schema `data.shards.DETECTIONS`.
        group_ns: decoding time of each image.
        unpack_ns: time to read the Arrow batches.
    """

    detections: bytes
    group_ns: tuple[int, ...]
    unpack_ns: int


class Reducer:
    """Groups maps into people. It keeps no state, so any reducer may take any shard, twice too."""

    def reduce(self, maps: Sequence[pa.RecordBatch]) -> Reduction:
        """Returns the detections in a shard's maps.

        Args:
            maps: record batches as `data.shards.pack_maps` makes them.
        """
        start = perf_counter_ns()
        unpacked = [unpack_maps(batch) for batch in maps]
        unpack_ns = perf_counter_ns() - start
        found, group_ns = [], []
        for batch in unpacked:
            rows = zip(
                batch.image_ids,
                batch.heatmaps_NKHW,
                batch.pafs_NPHW,
                batch.geometries,
                strict=True,
            )
            for image_id, heatmaps_KHW, pafs_PHW, geometry in rows:
                start = perf_counter_ns()
                poses = decode(
                    heatmaps_KHW.astype(np.float32, copy=False),
                    pafs_PHW.astype(np.float32, copy=False),
                    geometry,
                )
                group_ns.append(perf_counter_ns() - start)
                found.append((image_id, poses))
        return Reduction(pack_detections(found), tuple(group_ns), unpack_ns)
