"""Draws the heatmaps and PAFs of known keypoints: the output of an ideal network.

Legend: P people, D keypoints of the dataset, K keypoints of the network, C PAF channels, h and w
the grid of the network output. Coordinates are network input pixels; cell i of an axis has its
centre at input pixel `i * STRIDE + 3.5`.

Source: Cao et al., "OpenPose", arXiv:1812.08008, sections 3.2 and 3.3.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_pose.keypoints.sets import KeypointSet, Limb
from distributed_pose.records.images import STRIDE

Floats = npt.NDArray[np.float32]

_CENTRE_PX = (STRIDE - 1) / 2
# A Gaussian is cut off where it falls below 0.4 % of its peak.
_GAUSSIAN_REACH_SIGMAS = 3.33
_SHORTEST_LIMB_PX = 1e-3


def network_keypoints(people_PDx3: npt.ArrayLike, keypoints: KeypointSet) -> Floats:
    """Returns the network's keypoints of people given in the dataset's order.

    A derived keypoint, such as the neck, is the midpoint of others and is present where all of them
    are labelled.

    Args:
        people_PDx3: x, y and COCO visibility (0 unlabelled, 1 hidden, 2 visible).
        keypoints: keypoint set of the network.

    Returns:
        float32 [P, K, 3], in the same frame; a derived keypoint has the least visibility of those
        that it is derived from.
    """
    given = np.asarray(people_PDx3, np.float32).reshape(-1, keypoints.num_dataset_keypoints, 3)
    people = np.zeros((len(given), keypoints.num_keypoints, 3), np.float32)
    for index, source in enumerate(keypoints.to_dataset):
        if source is not None:
            people[:, index] = given[:, source]
    for name, sources in keypoints.derived:
        parts = given[:, [keypoints.dataset_keypoints.index(source) for source in sources]]
        index = keypoints.keypoints.index(name)
        people[:, index, :2] = parts[..., :2].sum(axis=1) / np.float32(len(sources))
        people[:, index, 2] = parts[..., 2].min(axis=1)
    people[people[..., 2] <= 0] = 0
    return people


def draw_heatmaps(people_PKx3: Floats, grid_hw: tuple[int, int], sigma_px: float = 7.0) -> Floats:
    """Returns heatmaps, float32 [K + 1, h, w] in [0, 1]: Gaussian peaks, and the background last.

    Where people overlap, the greatest value is used. The background is 1 minus the greatest value
    of all other channels.

    Args:
        people_PKx3: x and y in input pixels, and visibility; above 0 the keypoint is present.
        grid_hw: height and width of the network output.
        sigma_px: standard deviation of a peak, in input pixels.
    """
    heatmaps_hw = np.zeros((people_PKx3.shape[1] + 1, *grid_hw), np.float32)
    for person_Kx3 in people_PKx3:
        for channel, (x_px, y_px, visibility) in enumerate(person_Kx3.tolist()):
            if visibility > 0:
                _add_peak(heatmaps_hw[channel], x_px, y_px, sigma_px)
    heatmaps_hw[-1] = 1 - heatmaps_hw[:-1].max(axis=0)
    return heatmaps_hw


def draw_pafs(
    people_PKx3: Floats,
    limbs: Sequence[Limb],
    grid_hw: tuple[int, int],
    half_width_px: float = 8.0,
) -> Floats:
    """Returns PAFs, float32 [C, h, w]: unit vectors from keypoint a to b of each limb, else 0.

    A cell belongs to a limb if its centre is at most `half_width_px` from the segment between the
    two keypoints. Where limbs of several people overlap the vectors are averaged, so that the field
    does not depend on the order of the people.

    Args:
        people_PKx3: x and y in input pixels, and visibility; above 0 the keypoint is present.
        limbs: limbs of the keypoint set.
        grid_hw: height and width of the network output.
        half_width_px: half the width of a limb, in input pixels.
    """
    pafs_Chw = np.zeros((2 * len(limbs), *grid_hw), np.float32)
    for limb in limbs:
        counts_hw = np.zeros(grid_hw, np.float32)
        for person_Kx3 in people_PKx3:
            a, b = person_Kx3[limb.start], person_Kx3[limb.end]
            if a[2] > 0 and b[2] > 0:
                fields = (pafs_Chw[limb.paf_x], pafs_Chw[limb.paf_y])
                _add_limb(fields, counts_hw, a[:2], b[:2], half_width_px)
        pafs_Chw[[limb.paf_x, limb.paf_y]] /= np.maximum(counts_hw, 1)
    return pafs_Chw


def _add_peak(heatmap_hw: Floats, x_px: float, y_px: float, sigma_px: float) -> None:
    reach_px = _GAUSSIAN_REACH_SIGMAS * sigma_px
    rows = _cells(y_px - reach_px, y_px + reach_px, heatmap_hw.shape[0])
    columns = _cells(x_px - reach_px, x_px + reach_px, heatmap_hw.shape[1])
    peak_y = np.exp(-((_centres_px(rows) - y_px) ** 2) / (2 * sigma_px**2))
    peak_x = np.exp(-((_centres_px(columns) - x_px) ** 2) / (2 * sigma_px**2))
    window = heatmap_hw[rows, columns]
    np.maximum(window, np.outer(peak_y, peak_x), out=window)


def _add_limb(
    fields_xy: tuple[Floats, Floats], counts_hw: Floats, a_px: Floats, b_px: Floats, reach_px: float
) -> None:
    limb_px = b_px - a_px
    length_px = float(np.hypot(*limb_px))
    if length_px < _SHORTEST_LIMB_PX:
        return
    low, high = np.minimum(a_px, b_px) - reach_px, np.maximum(a_px, b_px) + reach_px
    columns = _cells(float(low[0]), float(high[0]), counts_hw.shape[1])
    rows = _cells(float(low[1]), float(high[1]), counts_hw.shape[0])
    unit = limb_px / length_px
    dx, dy = _centres_px(columns)[None, :] - a_px[0], _centres_px(rows)[:, None] - a_px[1]
    along = np.clip(dx * unit[0] + dy * unit[1], 0, length_px)
    inside = np.hypot(dx - along * unit[0], dy - along * unit[1]) <= reach_px
    counts_hw[rows, columns] += inside
    for field_hw, component in zip(fields_xy, unit, strict=True):
        field_hw[rows, columns] += inside * component


def _cells(low_px: float, high_px: float, size: int) -> slice:
    """Returns the cells of an axis whose centres lie in a closed range, clipped to the grid."""
    first = int(np.ceil((low_px - _CENTRE_PX) / STRIDE))
    last = int(np.floor((high_px - _CENTRE_PX) / STRIDE))
    start = min(max(first, 0), size)
    return slice(start, min(max(last + 1, start), size))


def _centres_px(cells: slice) -> Floats:
    return np.arange(cells.start, cells.stop, dtype=np.float32) * STRIDE + np.float32(_CENTRE_PX)
