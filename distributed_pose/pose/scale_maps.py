"""The maps of one image at several scales, in arrays that compiled code can index by scale.

Legend: S scales, C channels, H and W map size in cells, h and w image size in pixels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.kernels import compiled_part
from distributed_pose.pose.resample import Axis, Floats, Ints, axes
from distributed_pose.records.images import Geometry


class OneScale(NamedTuple):
    """The network output for one image at one scale.

    Attributes:
        heatmaps_KHW: float32 or float16, last stage, background last.
        pafs_PHW: float32 or float16, last stage.
        geometry: position of the image in the network input.
    """

    heatmaps_KHW: npt.NDArray[np.floating[Any]]
    pafs_PHW: npt.NDArray[np.floating[Any]]
    geometry: Geometry


class ScaleMaps(NamedTuple):
    """Heatmaps or PAFs at several scales, one after the other.

    Attributes:
        values: float32, flat: [C, H, W] of each scale.
        starts_S: int64 [S], first value of each scale.
        sizes_S2: int64 [S, 2], H and W of each scale.
    """

    values: Floats
    starts_S: Ints
    sizes_S2: Ints


class ScaleAxes(NamedTuple):
    """The resizes along one axis at several scales; see `resample.Axis` for the fields."""

    taps_Sh4: Ints
    weights_Sh4: Floats
    starts_SG: Ints
    gaps_Sh: Ints
    blend_Sh6: Floats


def scale_axes(scales: Sequence[OneScale]) -> tuple[ScaleAxes, ScaleAxes]:
    """Returns the resizes of an image's maps along y and along x."""
    pairs = [axes(one.geometry, one.heatmaps_KHW.shape[1:]) for one in scales]
    y_axes, x_axes = zip(*pairs, strict=True)
    return _stacked(y_axes), _stacked(x_axes)


def _stacked(axes_S: Sequence[Axis]) -> ScaleAxes:
    starts_SG = np.zeros((len(axes_S), max(len(axis.starts) for axis in axes_S)), np.int64)
    for row, axis in zip(starts_SG, axes_S, strict=True):
        row[: len(axis.starts)] = axis.starts
    return ScaleAxes(
        np.stack([axis.taps for axis in axes_S]),
        np.stack([axis.weights for axis in axes_S]),
        starts_SG,
        np.stack([axis.gaps for axis in axes_S]),
        np.stack([axis.blend for axis in axes_S]),
    )


@compiled_part
def channel_at(maps: ScaleMaps, scale: int, channel: int) -> Floats:
    """Returns one map at one scale, float32 [H, W]."""
    height, width = maps.sizes_S2[scale]
    start = maps.starts_S[scale] + channel * height * width
    return maps.values[start : start + height * width].reshape(height, width)


@compiled_part
def axis_at(stacked: ScaleAxes, scale: int, cells: int) -> Axis:
    """Returns the resizes of a map along an axis at one scale; `cells` is the size of the map."""
    return Axis(
        cells,
        stacked.taps_Sh4[scale],
        stacked.weights_Sh4[scale],
        stacked.starts_SG[scale],
        stacked.gaps_Sh[scale],
        stacked.blend_Sh6[scale],
    )


@compiled_part
def axes_at(maps: ScaleMaps, yx: tuple[ScaleAxes, ScaleAxes], scale: int) -> tuple[Axis, Axis]:
    """Returns the resizes along y and along x at one scale."""
    height, width = maps.sizes_S2[scale]
    return axis_at(yx[0], scale, height), axis_at(yx[1], scale, width)
