"""Step 5.5 of the guide: decodes and scores the outputs of a benchmark tool."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.data.shards import ImageMaps, unpack_detections
from distributed_pose.devices.host import num_cpus
from distributed_pose.engine.host_stages import HostStages
from distributed_pose.engine.reducer import Reducer, joined
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.metrics.coco_ap import coco_ap, coco_results
from distributed_pose.recordings.layout import check_complete, find_layout, scan
from distributed_pose.recordings.pads import maps_grid, output_name, output_names, read_pads
from distributed_pose.recordings.recording import Recording
from distributed_pose.records.images import Geometry, ImageRecord, InputSize

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Detections and AP of the outputs of a benchmark tool.

    Attributes:
        detections: COCO results in canonical order, with the ids of the labels.
        ap: the ten COCO figures by name; None if the labels have no annotations.
        num_images: number of images that `pad.txt` lists, over which AP is computed.
        num_labelled: number of images that the labels list.
        seconds: time to read and decode all outputs, without the computation of AP.
        notes: sentences about labels that were ignored, replaced or assumed.
    """

    detections: Sequence[Mapping[str, Any]]
    ap: Mapping[str, float] | None
    num_images: int
    num_labelled: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    image_id: int
    name: str
    geometry: Geometry
    grid: tuple[int, int]


def postprocess(
    results: Path,
    pad_file: Path,
    labels: Path,
    on_progress: Progress | None = None,
    category: int | str | None = None,
    size: InputSize | None = None,
) -> Scored:
    """Returns the detections in a result folder and their AP, decoded on all CPUs.

    Args:
        results: folder of `cann-benchmark`, `ais_bench` or `--dump-maps`; see `recordings.layout`.
        pad_file: `pad.txt`, which lists the images.
        labels: COCO keypoint annotation file.
        on_progress: called after each image with the total number and the number done.
        category: id or name of the person's category in the labels; None detects it.
        size: size of the network inputs; None for that of the profile.

    Raises:
        SetupError: if a file is missing or damaged, or belongs to an unlisted image; names it.
        ExecutionError: if the heatmaps of an image are not pose heatmaps; names it.
    """
    index = load_index(labels, category=category)
    jobs = _jobs(pad_file, labels, index, size)
    outputs = scan(results)
    # The guide is about the published checkpoint, whose set is the body of COCO.
    keypoints = coco_body()
    layout = find_layout(results, outputs, {job.name: job.grid for job in jobs}, keypoints)
    check_complete(results, outputs, layout, [job.name for job in jobs], str(pad_file))
    decode = _Decoding(Recording(str(results), layout), keypoints)
    start = perf_counter()
    rows: list[dict[str, object]] = []
    with ThreadPoolExecutor(num_cpus()) as pool:
        for done, image_rows in enumerate(pool.map(decode, jobs), 1):
            rows += image_rows
            if on_progress:
                on_progress(len(jobs), done)
    seconds = perf_counter() - start
    detections = coco_results(rows)
    image_ids = sorted(job.image_id for job in jobs)
    return Scored(
        detections=[*index.as_listed(detections)],
        ap=coco_ap(index.ground_truth, detections, image_ids) if index.is_labelled else None,
        num_images=len(jobs),
        num_labelled=len(index.images),
        seconds=seconds,
        notes=index.notes,
    )


class _Decoding:
    """Reads and decodes the maps of an image; several threads may call it."""

    def __init__(self, recording: Recording, keypoints: KeypointSet) -> None:
        self._recording = recording
        self._channels = keypoints.num_heatmaps, keypoints.num_pafs
        self._reducer = Reducer(HostStages(keypoints))
        # Compiled here, so that not every thread compiles the decoder.
        self._reducer.warm_up()

    def __call__(self, job: _Job) -> list[dict[str, object]]:
        heatmaps_KHW, pafs_PHW = self._recording.read(job.name, self._channels, job.grid)
        maps = ImageMaps((job.image_id,), (job.geometry,), heatmaps_KHW[None], pafs_PHW[None])
        grouped = self._reducer.group(maps)
        for reason in grouped.failures.values():
            raise ExecutionError(f"{job.name}: {reason}", image_ids=(job.image_id,))
        return unpack_detections(joined([grouped]).detections)


def _jobs(pad_file: Path, labels: Path, index: CocoIndex, size: InputSize | None) -> list[_Job]:
    output_names(index.images)  # Refuses labels in which two images have the same base name.
    listed = {Path(image.file_name).name: image for image in index.images}
    jobs = []
    for file_name, geometry in read_pads(pad_file).items():
        image = listed.get(file_name)
        if image is None:
            raise SetupError(f"{pad_file}: {labels} does not list the image {file_name}")
        _check_size(pad_file, labels, image, geometry)
        grid = maps_grid(file_name, geometry, size)
        jobs.append(_Job(image.image_id, output_name(file_name), geometry, grid))
    return jobs


def _check_size(pad_file: Path, labels: Path, image: ImageRecord, geometry: Geometry) -> None:
    if (geometry.image_height, geometry.image_width) != (image.height, image.width):
        raise SetupError(
            f"{pad_file}: {image.file_name} has {geometry.image_width}x{geometry.image_height} "
            f"pixels, but {labels} says {image.width}x{image.height}"
        )
