"""From the answers of a device to maps of images: checked, packed and recorded.

Array legend: N images, K heatmaps, P PAF channels, H and W map size in cells.
"""

from time import perf_counter_ns

import numpy as np
import pyarrow as pa

from distributed_pose.backends.base import Inference, InputBatch, NetworkOutput, check_maps
from distributed_pose.data.shards import ImageMaps, narrowed, pack_maps
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.recordings.pads import output_name
from distributed_pose.recordings.recording import Recording
from distributed_pose.records.stages import DEVICE_STAGES


def checked(
    batch: InputBatch, answer: Inference, keypoints: KeypointSet, durations: dict[str, list[int]]
) -> NetworkOutput:
    """Returns the checked maps of a batch, and appends its durations by stage."""
    start = perf_counter_ns()
    maps = check_maps(answer.maps, batch, keypoints)
    durations["check"].append(perf_counter_ns() - start)
    for stage, time_ns in zip(DEVICE_STAGES, answer.times.by_stage, strict=True):
        durations[stage].append(time_ns)
    return maps


def packed_maps(maps: ImageMaps) -> tuple[pa.RecordBatch, int]:
    """Returns maps as an Arrow record batch, and the nanoseconds to pack them."""
    start = perf_counter_ns()
    return pack_maps(maps), perf_counter_ns() - start


def image_maps(batch: InputBatch, maps: NetworkOutput, maps_dtype: str) -> ImageMaps:
    """Returns the maps of a batch with its images, in the type `f32` or `f16`."""
    heatmaps, pafs = map(np.ascontiguousarray, maps)
    converted = ImageMaps(batch.image_ids, batch.geometries, heatmaps, pafs, batch.scales)
    return narrowed(converted) if maps_dtype == "f16" else converted


def write_maps(recording: Recording, images: pa.RecordBatch, maps: list[ImageMaps]) -> None:
    """Records the maps that the decoder receives, so that other code decodes the same poses."""
    ids, file_names = (images.column(name).to_pylist() for name in ("image_id", "file_name"))
    names = {i: output_name(file_name) for i, file_name in zip(ids, file_names, strict=True)}
    for batch in maps:
        parts = zip(batch.image_ids, batch.heatmaps_NKHW, batch.pafs_NPHW, strict=True)
        for image_id, heatmaps_KHW, pafs_PHW in parts:
            recording.write(names[image_id], heatmaps_KHW, pafs_PHW)
