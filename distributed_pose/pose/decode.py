"""Decodes network output into poses, as the reference implementation does.

Source: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields",
arXiv:1611.08050, with the thresholds and the order of steps of Lightweight OpenPose's validation.

Legend: N images, K heatmaps, P PAF channels, H and W map size in cells, R poses of all images.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.assemble import People, Poses, assemble
from distributed_pose.pose.halves import half_to_float
from distributed_pose.pose.kernels import FOLDER
from distributed_pose.pose.limbs import Limbs, Pairs, find_limbs
from distributed_pose.pose.limits import (
    MAX_CANDIDATES,
    MAX_PAIRS,
    NoPoseMapsError,
    too_many_candidates,
    too_many_pairs,
)
from distributed_pose.pose.peaks import Scratch, find_peaks, new_candidates
from distributed_pose.pose.resample import Axis, axes
from distributed_pose.pose.samples import new_samples
from distributed_pose.pose.sources import completion_mark
from distributed_pose.pose.topology import topology
from distributed_pose.pose.warm_up import share_first_calls
from distributed_pose.records.images import STRIDE, Geometry

Maps = npt.NDArray[np.floating[Any]]

# Initial sizes of buffers that grow when an image needs more.
_PAIRS = 1024
_PEOPLE = 1024
_POSES = 256

_NO_MAP_HW = (6, 8)


class Decoded(NamedTuple):
    """The poses of a batch.

    Attributes:
        counts_N: int64 [N], number of poses per image; 0 for one that failed.
        poses: the poses of all images, in the order of the images.
        durations_ns_N3: int64 [N, 3], time per image for peaks, limbs and assembly.
        failures: reason by index of each image whose heatmaps are not pose heatmaps.
    """

    counts_N: npt.NDArray[np.int64]
    poses: Poses
    durations_ns_N3: npt.NDArray[np.int64]
    failures: Mapping[int, str]


class Decoder:
    """Decodes maps with reusable buffers; one thread at a time may use a decoder.

    Time and memory per image are bounded by its size and by `limits`. The buffers have room for
    every image within the limits, or grow before they are written; pages take no memory until they
    are used.

    Args:
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
        clock: returns the current time in nanoseconds, from which stage durations are computed.
    """

    def __init__(self, keypoints: KeypointSet, clock: Callable[[], int] = perf_counter_ns) -> None:
        self._keypoints = keypoints
        self._topology = topology(keypoints)
        self._clock = clock
        self._scratch = Scratch(_floats(0), _floats(0), _floats(0), _ints(0, 4))
        self._candidates = new_candidates(keypoints.num_keypoints)
        # Each kind of limb uses a candidate at most once.
        kinds = len(keypoints.limbs)
        max_limbs = kinds * MAX_CANDIDATES
        self._limbs = Limbs(
            _ints(max_limbs),
            _ints(max_limbs),
            np.empty(max_limbs),
            np.zeros(kinds + 1, np.int64),
            _ints(keypoints.num_keypoints * MAX_CANDIDATES),
        )
        self._make_pairs(_PAIRS)
        self._make_people(_PEOPLE)
        width = 3 * keypoints.num_dataset_keypoints
        self._poses = Poses(np.empty((_POSES, width)), np.empty(_POSES))
        self._maps_f32 = _floats(0)

    def warm_up(self) -> None:
        """Compiles the kernels or loads them from the disk cache.

        Processes that do so at the same time share the work.
        """
        # Half precision, so that its conversion is compiled as well.
        heatmaps = np.zeros((self._keypoints.num_heatmaps, *_NO_MAP_HW), np.float16)
        pafs = np.zeros((self._keypoints.num_pafs, *_NO_MAP_HW), np.float16)
        yx = axes(Geometry(STRIDE, STRIDE, 0, 0, 0, 0), _NO_MAP_HW)
        self._make_scratch(yx)
        calls = {
            "limbs": lambda: self._find_limbs(self._as_f32(pafs), yx),
            "peaks": lambda: self._find_peaks(self._as_f32(heatmaps), yx),
            "poses": lambda: self._assemble(0),
        }
        share_first_calls(calls, completion_mark(FOLDER))

    def decode(self, heatmaps_KHW: Maps, pafs_PHW: Maps, geometry: Geometry) -> Poses:
        """Returns the poses in one image, in image pixels; see `decode_batch`.

        Raises:
            NoPoseMapsError: if there are more candidates than `limits` allow.
        """
        decoded = self.decode_batch(heatmaps_KHW[None], pafs_PHW[None], [geometry])
        if decoded.failures:
            raise NoPoseMapsError(decoded.failures[0])
        return decoded.poses

    def decode_batch(
        self, heatmaps_NKHW: Maps, pafs_NPHW: Maps, geometries: Sequence[Geometry]
    ) -> Decoded:
        """Returns the poses in the images of a batch, in image pixels.

        Args:
            heatmaps_NKHW: float32 or float16 [N, K, H, W], last stage, background last; finite.
            pafs_NPHW: float32 or float16 [N, P, H, W], last stage; finite.
            geometries: position of each image in the network input of 8H x 8W pixels.
        """
        images = zip(heatmaps_NKHW, pafs_NPHW, geometries, strict=True)
        return self._decode_all([partial(self._decode, *image) for image in images])

    def _decode_all(
        self, decoders: Sequence[Callable[[int, npt.NDArray[np.int64]], int]]
    ) -> Decoded:
        """Returns the poses of all images.

        Args:
            decoders: function per image that writes its poses from a row on and its durations to an
                array, and returns the row after them.
        """
        ends = np.zeros(len(decoders) + 1, np.int64)
        durations_ns_N3 = np.zeros((len(decoders), 3), np.int64)
        failures: dict[int, str] = {}
        for index, decode in enumerate(decoders):
            ends[index + 1] = ends[index]
            try:
                ends[index + 1] = decode(int(ends[index]), durations_ns_N3[index])
            except NoPoseMapsError as error:
                failures[index] = error.message
        poses = Poses(*(rows[: ends[-1]].copy() for rows in self._poses))
        return Decoded(np.diff(ends), poses, durations_ns_N3, failures)

    def _decode(
        self,
        heatmaps_KHW: Maps,
        pafs_PHW: Maps,
        geometry: Geometry,
        start: int,
        durations_ns_3: npt.NDArray[np.int64],
    ) -> int:
        """Writes the poses of an image from row `start` on, and returns the row after them."""
        yx = axes(geometry, (heatmaps_KHW.shape[1], heatmaps_KHW.shape[2]))
        self._make_scratch(yx)
        began = self._clock()
        self._find_peaks(self._as_f32(heatmaps_KHW), yx)
        peaks = self._clock()
        self._find_limbs(self._as_f32(pafs_PHW), yx)
        limbs = self._clock()
        end = self._assemble(start)
        durations_ns_3[:] = peaks - began, limbs - peaks, self._clock() - limbs
        return end

    def _find_peaks(self, heatmaps_KHW: npt.NDArray[np.float32], yx: tuple[Axis, Axis]) -> None:
        keypoint = find_peaks(heatmaps_KHW, yx, self._candidates, self._scratch)
        if keypoint >= 0:
            raise too_many_candidates(self._keypoints.keypoints[keypoint])

    def _find_limbs(self, pafs_PHW: npt.NDArray[np.float32], yx: tuple[Axis, Axis]) -> None:
        found = self._candidates, self._limbs
        room, total = find_limbs(pafs_PHW, yx, *found, self._pairs, self._scratch, self._topology)
        if total > MAX_PAIRS:
            raise too_many_pairs(total)
        if room > len(self._pairs.a_R):
            self._make_pairs(room)
            find_limbs(pafs_PHW, yx, *found, self._pairs, self._scratch, self._topology)

    def _assemble(self, start: int) -> int:
        # Each limb starts one person at most.
        if self._limbs.offsets[-1] > len(self._people.scores_P):
            self._make_people(2 * int(self._limbs.offsets[-1]))
        found = self._candidates, self._limbs, self._people
        end = assemble(*found, self._poses, start, self._topology)
        if end > len(self._poses.scores_P):
            grown = Poses(*(np.resize(rows, (2 * end, *rows.shape[1:])) for rows in self._poses))
            self._poses = grown
            assemble(*found, self._poses, start, self._topology)
        return end

    def _as_f32(self, maps_CHW: Maps) -> npt.NDArray[np.float32]:
        """Returns maps as read-only float32, the only type that the kernels are compiled for."""
        if maps_CHW.dtype != np.float32 or not maps_CHW.flags.c_contiguous:
            if self._maps_f32.size < maps_CHW.size:
                self._maps_f32 = _floats(maps_CHW.size)
            flat = self._maps_f32[: maps_CHW.size]
            if maps_CHW.dtype == np.float16:
                half_to_float(np.ascontiguousarray(maps_CHW, np.float16), flat)
            else:
                np.copyto(flat.reshape(maps_CHW.shape), maps_CHW)
            maps_CHW = flat.reshape(maps_CHW.shape)
        view = maps_CHW.view()
        view.flags.writeable = False
        return view

    def _make_pairs(self, room: int) -> None:
        self._pairs = Pairs(_ints(room), _ints(room), np.empty(room), new_samples())

    def _make_people(self, room: int) -> None:
        num_keypoints = self._keypoints.num_keypoints
        self._people = People(
            _ints(room, num_keypoints),
            _ints(room, num_keypoints),
            np.empty(room),
            _ints(room),
            _ints(num_keypoints * MAX_CANDIDATES),
        )

    def _make_scratch(self, yx: tuple[Axis, Axis]) -> None:
        """Allocates scratch for a whole image."""
        (rows, columns), (height, width) = (a.cells for a in yx), (len(a.taps) for a in yx)
        fine = (STRIDE + 1) * rows * STRIDE * columns
        # The profiles of the enlarged map share this buffer and are larger for a tiny image.
        pixels = max((height + STRIDE * rows) * width, STRIDE * (rows + 2 * columns))
        fields = 2 * height * width
        boxes = (rows + 1) * (columns + 1)
        if self._scratch.fine.size < fine:
            self._scratch = self._scratch._replace(fine=_floats(fine))
        if self._scratch.pixels.size < pixels:
            self._scratch = self._scratch._replace(pixels=_floats(pixels))
        if self._scratch.fields.size < fields:
            self._scratch = self._scratch._replace(fields=_floats(fields))
        if len(self._scratch.boxes) < boxes:
            self._scratch = self._scratch._replace(boxes=_ints(boxes, 4))


def _floats(size: int) -> npt.NDArray[np.float32]:
    return np.empty(size, np.float32)


def _ints(*shape: int) -> npt.NDArray[np.int64]:
    return np.empty(shape, np.int64)
