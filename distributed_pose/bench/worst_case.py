"""Measures the decoder on maps that are made to take it long, up to its limits and beyond.

The maps are the slowest of a random search: peaks on a grid or flat parts with peaks from rounding,
and fields in which every pair of candidates is a limb.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import thread_time_ns

import numpy as np
import numpy.typing as npt

from distributed_pose.devices.host import cpu_name, keep_freed_memory, peak_rss_bytes
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.decode import Decoded, Decoder
from distributed_pose.pose.reference import find_peaks, full_resolution
from distributed_pose.records.images import Geometry

Floats = npt.NDArray[np.float32]

_GRID_HW = (46, 80)

# The largest image of COCO, and one that fills the input of the profile `modelzoo`.
_SQUARE = Geometry(640, 640, 0, 136, 0, 136)
_WIDE = Geometry(368, 640, 0, 0, 0, 0)

# Columns of the left and the right half of both images.
_HALVES = (slice(18, 40), slice(40, 62))


@dataclass(frozen=True)
class WorstCase:
    """The decoder's time for one pair of maps.

    Attributes:
        name: description of the maps.
        candidates: largest number of candidates of a keypoint; 0 where the image fails.
        pairs: number of pairs of candidates; 0 where the image fails.
        poses: number of poses.
        median_ms: processor time in milliseconds, median of the measurements.
        max_ms: longest of the measurements.
        failure: reason why the image fails; empty if it does not.
    """

    name: str
    candidates: int
    pairs: int
    poses: int
    median_ms: float
    max_ms: float
    failure: str


@dataclass(frozen=True)
class WorstCaseReport:
    """The decoder's times for maps that are made to take it long.

    Attributes:
        processor: name of the measured processor.
        cases: the measurements.
        memory_bytes: growth of the process while it decoded, at its peak.
    """

    processor: str
    cases: tuple[WorstCase, ...]
    memory_bytes: int


@dataclass(frozen=True)
class _Scene:
    keypoints: KeypointSet
    name: str
    heatmaps_KHW: Floats
    pafs_PHW: Floats
    geometry: Geometry


def bench_worst_case(
    repeat: int, on_progress: Callable[[int, int], None], keypoints: KeypointSet
) -> WorstCaseReport:
    """Returns the decoder's times for maps that are made to take it long.

    Args:
        repeat: number of measurements of each pair of maps.
        on_progress: called after each pair of maps with the total number and the number done.
        keypoints: keypoint set of the maps.
    """
    keep_freed_memory()
    decoder = Decoder(keypoints, thread_time_ns)
    decoder.warm_up()
    scenes = [*_scenes(keypoints)]
    before_bytes = peak_rss_bytes()
    measured = []
    for scene in scenes:
        measured.append(_measure(decoder, scene, repeat))
        on_progress(len(scenes), len(measured))
    memory_bytes = peak_rss_bytes() - before_bytes
    # The reference decoder's maps of the whole image would count as memory of the decoder.
    cases = [_case(scene, *found) for scene, found in zip(scenes, measured, strict=True)]
    return WorstCaseReport(cpu_name(), tuple(cases), memory_bytes)


def _measure(decoder: Decoder, scene: _Scene, repeat: int) -> tuple[Decoded, list[float]]:
    arguments = scene.heatmaps_KHW[None], scene.pafs_PHW[None], [scene.geometry]
    times_ms = []
    for _ in range(repeat):
        start = thread_time_ns()
        decoded = decoder.decode_batch(*arguments)
        times_ms.append((thread_time_ns() - start) / 1e6)
    return decoded, times_ms


def _case(scene: _Scene, decoded: Decoded, times_ms: Sequence[float]) -> WorstCase:
    failure = decoded.failures.get(0, "")
    keypoints = scene.keypoints
    counts_K = [0] * keypoints.num_keypoints if failure else _num_candidates(scene)
    return WorstCase(
        name=scene.name,
        candidates=max(counts_K),
        pairs=sum(counts_K[limb.start] * counts_K[limb.end] for limb in keypoints.limbs),
        poses=int(decoded.counts_N[0]),
        median_ms=float(np.median(times_ms)),
        max_ms=max(times_ms),
        failure=failure,
    )


def _num_candidates(scene: _Scene) -> list[int]:
    heatmaps_hwK = full_resolution(scene.heatmaps_KHW, scene.geometry)
    keypoints = range(scene.keypoints.num_keypoints)
    return [len(find_peaks(heatmaps_hwK[:, :, keypoint])) for keypoint in keypoints]


def _scenes(keypoints: KeypointSet) -> Iterator[_Scene]:
    random = np.random.default_rng(0)

    def scene(name: str, maps: tuple[Floats, Floats], geometry: Geometry) -> _Scene:
        return _Scene(keypoints, name, *maps, geometry)

    yield scene("peaks of all keypoints, all pairs limbs", _facing(keypoints, random), _SQUARE)
    flats = _two_flats(keypoints, random)
    yield scene("rounded peaks of two keypoints, all pairs limbs", flats, _WIDE)
    shapes = (keypoints.num_heatmaps, *_GRID_HW), (keypoints.num_pafs, *_GRID_HW)
    flat = np.full(shapes[0], 0.2, np.float32)
    yield scene("flat heatmaps of 0.2", (flat, _facing(keypoints, random)[1]), _SQUARE)
    noise_KHW, noise_PHW = (random.random(shape, np.float32) for shape in shapes)
    yield scene("noise", (noise_KHW, noise_PHW), _SQUARE)


def _facing(keypoints: KeypointSet, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Returns maps in which each limb leads from one half of the image to the other."""
    halves = [0] * keypoints.num_keypoints
    for limb in keypoints.limbs:
        if not limb.fills:
            halves[limb.end] = 1 - halves[limb.start]
    shape = keypoints.num_heatmaps, *_GRID_HW
    heatmaps_KHW = random.normal(0, 0.02, shape).astype(np.float32)
    for keypoint, half in enumerate(halves):
        peaks_HW = heatmaps_KHW[keypoint, 1:-5:2, _HALVES[half]][:, ::2]
        peaks_HW += 5 * (random.random(peaks_HW.shape, np.float32) + 1)
    pafs_PHW = random.normal(0, 50, (keypoints.num_pafs, *_GRID_HW)).astype(np.float32)
    for limb in keypoints.limbs:
        pafs_PHW[limb.paf_x] += 100 * (halves[limb.end] - halves[limb.start])
    return heatmaps_KHW, pafs_PHW


def _two_flats(keypoints: KeypointSet, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Returns maps in which rounding makes hundreds of peaks of two keypoints, and no others.

    The other heatmaps are so high everywhere that all their pixels are computed.
    """
    a, b, channel_x, *_ = keypoints.limbs[0]
    heatmaps_KHW = np.full((keypoints.num_heatmaps, *_GRID_HW), 0.095, np.float32)
    heatmaps_KHW[:, ::2, ::2] = 0.099
    heatmaps_KHW[[a, b]] = 0
    heatmaps_KHW[a, :, :21] = heatmaps_KHW[b, :, -21:] = 0.2
    pafs_PHW = np.zeros((keypoints.num_pafs, *_GRID_HW), np.float32)
    pafs_PHW[channel_x] = random.uniform(0.2, 3, _GRID_HW)
    return heatmaps_KHW, pafs_PHW
