"""Decodes network output into poses, as the reference implementation does.

Source: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields",
arXiv:1611.08050, with the thresholds and the order of steps of Lightweight OpenPose's validation.

Legend: N images, K heatmaps, P PAF channels, H and W map size in cells, R poses of all images.
"""

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.assemble import People, Poses, assemble
from distributed_pose.pose.halves import half_to_float
from distributed_pose.pose.limbs import Limbs, Pairs, find_limbs
from distributed_pose.pose.peaks import Candidates, Scratch, find_peaks
from distributed_pose.pose.resample import Axis, axes
from distributed_pose.pose.samples import new_samples
from distributed_pose.pose.skeleton import LIMBS, NUM_HEATMAPS, NUM_KEYPOINTS, NUM_PAFS
from distributed_pose.records import STRIDE, Geometry

Maps = npt.NDArray[np.floating[Any]]

# Initial sizes of the buffers, which grow when an image needs more.
_CANDIDATES = 1024
_PAIRS = 1024
_POSES = 256

_NO_MAP_HW = (6, 8)


class Decoded(NamedTuple):
    """The poses of a batch.

    Attributes:
        counts_N: int64 [N], number of poses per image.
        poses: the poses of all images, in the order of the images.
        durations_ns_N3: int64 [N, 3], time per image for peaks, limbs and assembly.
    """

    counts_N: npt.NDArray[np.int64]
    poses: Poses
    durations_ns_N3: npt.NDArray[np.int64]


class Decoder:
    """Decodes maps with reusable buffers; one thread at a time may use a decoder.

    Args:
        clock: returns the current time in nanoseconds, from which stage durations are computed.
    """

    def __init__(self, clock: Callable[[], int] = perf_counter_ns) -> None:
        self._clock = clock
        self._scratch = Scratch(np.empty(0, np.float32), np.empty(0, np.float32), _ints(0, 4))
        self._make_candidates(_CANDIDATES)
        self._make_pairs(_PAIRS)
        self._poses = Poses(np.empty((_POSES, 51)), np.empty(_POSES))
        self._maps_f32 = np.empty(0, np.float32)

    def warm_up(self) -> None:
        """Compiles the kernels or loads them from the disk cache."""
        for dtype in (np.float32, np.float16):
            heatmaps = np.zeros((1, NUM_HEATMAPS, *_NO_MAP_HW), dtype)
            pafs = np.zeros((1, NUM_PAFS, *_NO_MAP_HW), dtype)
            self.decode_batch(heatmaps, pafs, [Geometry(STRIDE, STRIDE, 0, 0, 0, 0)])

    def decode(self, heatmaps_KHW: Maps, pafs_PHW: Maps, geometry: Geometry) -> Poses:
        """Returns the poses in one image, in image pixels; see `decode_batch`."""
        return self.decode_batch(heatmaps_KHW[None], pafs_PHW[None], [geometry]).poses

    def decode_batch(
        self, heatmaps_NKHW: Maps, pafs_NPHW: Maps, geometries: Sequence[Geometry]
    ) -> Decoded:
        """Returns the poses in the images of a batch, in image pixels.

        Args:
            heatmaps_NKHW: float32 or float16 [N, 19, H, W], last stage, background last; finite.
            pafs_NPHW: float32 or float16 [N, 38, H, W], last stage; finite.
            geometries: position of each image in the network input of 8H x 8W pixels.
        """
        ends = np.zeros(len(geometries) + 1, np.int64)
        durations_ns_N3 = np.empty((len(geometries), 3), np.int64)
        for index, geometry in enumerate(geometries):
            heatmaps_KHW, pafs_PHW = heatmaps_NKHW[index], pafs_NPHW[index]
            yx = axes(geometry, (heatmaps_KHW.shape[1], heatmaps_KHW.shape[2]))
            self._make_scratch(yx)
            start = self._clock()
            self._find_peaks(self._as_f32(heatmaps_KHW), yx)
            peaks = self._clock()
            self._find_limbs(self._as_f32(pafs_PHW), yx)
            limbs = self._clock()
            ends[index + 1] = self._assemble(int(ends[index]))
            durations_ns_N3[index] = peaks - start, limbs - peaks, self._clock() - limbs
        poses = Poses(*(rows[: ends[-1]].copy() for rows in self._poses))
        return Decoded(np.diff(ends), poses, durations_ns_N3)

    def _find_peaks(self, heatmaps_KHW: npt.NDArray[np.float32], yx: tuple[Axis, Axis]) -> None:
        room = find_peaks(heatmaps_KHW, yx, self._candidates, self._scratch)
        if room > len(self._candidates.x_M):
            self._make_candidates(2 * room)
            find_peaks(heatmaps_KHW, yx, self._candidates, self._scratch)

    def _find_limbs(self, pafs_PHW: npt.NDArray[np.float32], yx: tuple[Axis, Axis]) -> None:
        room = find_limbs(pafs_PHW, yx, self._candidates, self._limbs, self._pairs)
        if room > len(self._pairs.a_R):
            self._make_pairs(2 * room)
            find_limbs(pafs_PHW, yx, self._candidates, self._limbs, self._pairs)

    def _assemble(self, start: int) -> int:
        end = assemble(self._candidates, self._limbs, self._people, self._poses, start)
        if end > len(self._poses.scores_P):
            grown = Poses(*(np.resize(rows, (2 * end, *rows.shape[1:])) for rows in self._poses))
            self._poses = grown
            assemble(self._candidates, self._limbs, self._people, self._poses, start)
        return end

    def _as_f32(self, maps_CHW: Maps) -> npt.NDArray[np.float32]:
        """Returns maps as read-only float32, the only type that the kernels are compiled for."""
        if maps_CHW.dtype != np.float32 or not maps_CHW.flags.c_contiguous:
            if self._maps_f32.size < maps_CHW.size:
                self._maps_f32 = np.empty(maps_CHW.size, np.float32)
            flat = self._maps_f32[: maps_CHW.size]
            if maps_CHW.dtype == np.float16:
                half_to_float(np.ascontiguousarray(maps_CHW, np.float16), flat)
            else:
                np.copyto(flat.reshape(maps_CHW.shape), maps_CHW)
            maps_CHW = flat.reshape(maps_CHW.shape)
        view = maps_CHW.view()
        view.flags.writeable = False
        return view

    def _make_candidates(self, room: int) -> None:
        limbs = room * len(LIMBS)
        self._candidates = Candidates(
            _ints(room), _ints(room), np.empty(room, np.float32), _ints(NUM_KEYPOINTS + 1)
        )
        self._limbs = Limbs(
            _ints(limbs), _ints(limbs), np.empty(limbs), _ints(len(LIMBS) + 1), _ints(room)
        )
        self._people = People(_ints(limbs, NUM_KEYPOINTS), np.empty(limbs), _ints(limbs))

    def _make_pairs(self, room: int) -> None:
        self._pairs = Pairs(_ints(room), _ints(room), np.empty(room), new_samples())

    def _make_scratch(self, yx: tuple[Axis, Axis]) -> None:
        """Allocates scratch for a whole image; the pages take no memory until they are used."""
        (rows, columns), (height, width) = (a.cells for a in yx), (len(a.taps) for a in yx)
        fine = (STRIDE + 1) * rows * STRIDE * columns
        # The profiles of the enlarged map share this buffer and are larger for a tiny image.
        pixels = max((height + STRIDE * rows) * width, STRIDE * (rows + 2 * columns))
        boxes = (rows + 1) * (columns + 1)
        if self._scratch.fine.size < fine:
            self._scratch = self._scratch._replace(fine=np.empty(fine, np.float32))
        if self._scratch.pixels.size < pixels:
            self._scratch = self._scratch._replace(pixels=np.empty(pixels, np.float32))
        if len(self._scratch.boxes) < boxes:
            self._scratch = self._scratch._replace(boxes=_ints(boxes, 4))


def _ints(*shape: int) -> npt.NDArray[np.int64]:
    return np.empty(shape, np.int64)
