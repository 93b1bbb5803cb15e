"""The reducer: heatmaps and PAFs in, detections out."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.data.shards import ImageMaps, no_detections, pack_detections, unpack_maps
from distributed_pose.engine.host_stages import HostStages
from distributed_pose.errors import ExecutionError
from distributed_pose.pose.assemble import Poses
from distributed_pose.pose.decode import Decoded, Decoder
from distributed_pose.records.stages import DECODE_STAGES, Durations


class ForeignMapsError(ExecutionError):
    """Maps of other images than the expected ones, which is a fault of their worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduction:
    """The detections of one shard.

    Attributes:
        image_ids: ids of all images with maps, including those without detections.
        detections: serialised Arrow record batch, schema `data.shards.DETECTIONS`.
        durations: nanoseconds per grouped image in the stages `peaks`, `limbs` and `assemble`.
        unpack_ns: nanoseconds to read the Arrow batches.
        failures: reason by id of each image whose heatmaps are not pose heatmaps.
    """

    image_ids: tuple[int, ...]
    detections: bytes
    durations: Durations
    unpack_ns: int = 0
    failures: Mapping[int, str] = field(default_factory=dict)


class Grouped(NamedTuple):
    """The people in some maps.

    Attributes:
        image_ids: ids of all images, including those without people.
        counts_N: number of people per image.
        poses: people of all images, in the order of the images.
        durations_ns_N3: nanoseconds per grouped image, by stage of `records.stages.DECODE_STAGES`.
        failures: reason by id of each image whose heatmaps are not pose heatmaps.
    """

    image_ids: tuple[int, ...]
    counts_N: npt.NDArray[np.int64]
    poses: Poses
    durations_ns_N3: npt.NDArray[np.int64]
    failures: Mapping[int, str]


class Reducer:
    """Groups maps into people, in buffers that it keeps.

    No result depends on earlier ones, so any reducer may take any shard, also a second time. It is
    thread-safe; as many threads as use it group at once.

    Args:
        stages: stages that run on the host.
    """

    def __init__(self, stages: HostStages) -> None:
        self._stages = stages
        self._idle: deque[Decoder] = deque()

    def warm_up(self) -> None:
        """Compiles or loads the decoder's code, so that no shard waits for it."""
        with self._decoder() as decoder:
            decoder.warm_up()

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
        return replace(joined(map(self.group, unpacked)), unpack_ns=unpack_ns)

    def group(self, maps: ImageMaps) -> Grouped:
        """Returns the people in maps that are in this process already."""
        with self._decoder() as decoder:
            decoded = decoder.decode_batch(maps.heatmaps_NKHW, maps.pafs_NPHW, maps.geometries)
        return grouped(maps.image_ids, decoded)

    @contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        """Yields a decoder that no other thread uses meanwhile."""
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = self._stages.decoder()
        try:
            yield decoder
        finally:
            self._idle.append(decoder)


def grouped(image_ids: tuple[int, ...], decoded: Decoded) -> Grouped:
    """Returns the decoded people of images with the images' ids."""
    failures = {image_ids[row]: reason for row, reason in decoded.failures.items()}
    durations_ns_N3 = np.delete(decoded.durations_ns_N3, [*decoded.failures], axis=0)
    return Grouped(image_ids, decoded.counts_N, decoded.poses, durations_ns_N3, failures)


def joined(parts: Iterable[Grouped]) -> Reduction:
    """Returns the detections of a shard from the people in its parts."""
    all_ids: list[int] = []
    failures: dict[int, str] = {}
    image_ids = [np.empty(0, np.int64)]
    poses: list[Poses] = []
    durations = [np.empty((0, len(DECODE_STAGES)), np.int64)]
    for part in parts:
        all_ids += part.image_ids
        failures |= part.failures
        image_ids.append(np.repeat(np.array(part.image_ids, np.int64), part.counts_N))
        poses.append(part.poses)
        durations.append(part.durations_ns_N3)
    detections = no_detections()
    if poses:
        people = Poses(*map(np.concatenate, zip(*poses, strict=True)))
        detections = pack_detections(np.concatenate(image_ids), people)
    by_stage = zip(DECODE_STAGES, np.concatenate(durations).T.tolist(), strict=True)
    return Reduction(
        image_ids=tuple(all_ids),
        detections=detections,
        durations={stage: tuple(times_ns) for stage, times_ns in by_stage},
        failures=failures,
    )
