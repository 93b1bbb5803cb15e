"""Decodes the mean of maps at several scales, as the reference implementation's multi-scale mode.

The reference enlarges the maps of each scale to the image and takes their mean. Enlarging is
linear, so the mean is computed only at the pixels that matter, with the same sums.

Legend: S scales, C channels, H and W map size in cells.
"""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.decode import Decoded, Decoder, Maps
from distributed_pose.pose.halves import half_to_float
from distributed_pose.pose.kernels import FOLDER
from distributed_pose.pose.limits import MAX_PAIRS, too_many_candidates, too_many_pairs
from distributed_pose.pose.mean_limbs import find_mean_limbs
from distributed_pose.pose.mean_peaks import find_mean_peaks
from distributed_pose.pose.regions import MAX_BOXES
from distributed_pose.pose.resample import axes
from distributed_pose.pose.samples import NUM_SAMPLES
from distributed_pose.pose.scale_maps import OneScale, ScaleAxes, ScaleMaps, scale_axes
from distributed_pose.pose.sources import completion_mark
from distributed_pose.pose.warm_up import share_first_calls
from distributed_pose.records.images import STRIDE, Geometry

_NO_MAP_HW = (6, 8)


class MeanDecoder(Decoder):
    """Decodes the maps of images at several scales; one thread at a time may use a decoder.

    Args:
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
        clock: returns the current time in nanoseconds, from which stage durations are computed.
    """

    def __init__(self, keypoints: KeypointSet, clock: Callable[[], int] = perf_counter_ns) -> None:
        super().__init__(keypoints, clock)
        self._sums = np.empty(2 * NUM_SAMPLES, np.float32)
        self._flat = [np.empty(0, np.float32), np.empty(0, np.float32)]
        boxes = np.empty((MAX_BOXES + 1, 4), np.int64)
        self._scratch = self._scratch._replace(boxes=boxes)

    def warm_up(self) -> None:
        """Compiles the kernels of several scales, or loads them from the disk cache."""
        nothing = OneScale(
            np.zeros((self._keypoints.num_heatmaps, *_NO_MAP_HW), np.float16),
            np.zeros((self._keypoints.num_pafs, *_NO_MAP_HW), np.float16),
            Geometry(STRIDE, STRIDE, 0, 0, 0, 0),
        )
        heatmaps, pafs, yx = self._prepare([nothing])
        calls = {
            "mean limbs": lambda: self._find_mean_limbs(pafs, yx),
            "mean peaks": lambda: self._find_mean_peaks(heatmaps, yx),
            "poses": lambda: self._assemble(0),
        }
        share_first_calls(calls, completion_mark(FOLDER, several_scales=True))

    def decode_scales(self, images: Sequence[Sequence[OneScale]]) -> Decoded:
        """Returns the poses in images of one or more scales each, in image pixels.

        Args:
            images: maps of each image, in the order in which the mean adds the scales.
        """
        return self._decode_all([partial(self._decode_mean, image) for image in images])

    def _decode_mean(
        self, scales: Sequence[OneScale], start: int, durations_ns_3: npt.NDArray[np.int64]
    ) -> int:
        """Writes the poses of an image from row `start` on, and returns the row after them."""
        began = self._clock()
        heatmaps, pafs, yx = self._prepare(scales)
        self._find_mean_peaks(heatmaps, yx)
        peaks = self._clock()
        self._find_mean_limbs(pafs, yx)
        limbs = self._clock()
        end = self._assemble(start)
        durations_ns_3[:] = peaks - began, limbs - peaks, self._clock() - limbs
        return end

    def _prepare(
        self, scales: Sequence[OneScale]
    ) -> tuple[ScaleMaps, ScaleMaps, tuple[ScaleAxes, ScaleAxes]]:
        for one in scales:
            self._make_scratch(axes(one.geometry, one.heatmaps_KHW.shape[1:]))
        height, width = scales[0].geometry.image_height, scales[0].geometry.image_width
        # Both fields of a limb, and the mean of one of them while it is computed.
        if self._scratch.fields.size < 3 * height * width:
            fields = np.empty(3 * height * width, np.float32)
            self._scratch = self._scratch._replace(fields=fields)
        heatmaps = self._joined([one.heatmaps_KHW for one in scales], 0)
        pafs = self._joined([one.pafs_PHW for one in scales], 1)
        return heatmaps, pafs, scale_axes(scales)

    def _joined(self, maps_S: Sequence[Maps], buffer: int) -> ScaleMaps:
        """Returns the maps of all scales as float32 in one of the two buffers."""
        ends = np.cumsum([0, *(maps_CHW.size for maps_CHW in maps_S)])
        if self._flat[buffer].size < ends[-1]:
            self._flat[buffer] = np.empty(ends[-1], np.float32)
        values = self._flat[buffer]
        for maps_CHW, start, end in zip(maps_S, ends[:-1], ends[1:], strict=True):
            if maps_CHW.dtype == np.float16:
                half_to_float(np.ascontiguousarray(maps_CHW, np.float16), values[start:end])
            else:
                np.copyto(values[start:end].reshape(maps_CHW.shape), maps_CHW)
        # The kernels are compiled for read-only maps alone.
        view = values[: ends[-1]].view()
        view.flags.writeable = False
        return ScaleMaps(view, ends[:-1], np.array([maps.shape[1:] for maps in maps_S]))

    def _find_mean_peaks(self, maps: ScaleMaps, yx: tuple[ScaleAxes, ScaleAxes]) -> None:
        found = self._candidates, self._scratch
        keypoint = find_mean_peaks(maps, yx, self._keypoints.num_heatmaps, *found)
        if keypoint >= 0:
            raise too_many_candidates(self._keypoints.keypoints[keypoint])

    def _find_mean_limbs(self, maps: ScaleMaps, yx: tuple[ScaleAxes, ScaleAxes]) -> None:
        buffers = self._scratch, self._sums
        found = self._topology.limbs_L4, self._candidates, self._limbs
        room, total = find_mean_limbs(maps, yx, *found, self._pairs, *buffers)
        if total > MAX_PAIRS:
            raise too_many_pairs(total)
        if room > len(self._pairs.a_R):
            self._make_pairs(room)
            find_mean_limbs(maps, yx, *found, self._pairs, *buffers)
