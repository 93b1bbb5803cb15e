"""Draws the heatmaps and PAFs of known keypoints: the output of an ideal network.

Legend: P people, K heatmap channels (18 keypoints and background), C PAF channels, h and w the grid
of the network output. Coordinates are network input pixels; cell i of an axis has its centre at
input pixel `i * STRIDE + 3.5`.

Source: Cao et al., "OpenPose", arXiv:1812.08008, sections 3.2 and 3.3.
"""

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.skeleton import (
    COCO_KEYPOINTS,
    LIMBS,
    NECK,
    NUM_HEATMAPS,
    NUM_KEYPOINTS,
    NUM_PAFS,
    TO_COCO,
)
from distributed_pose.records.images import STRIDE

Floats = npt.NDArray[np.float32]

_CENTRE_PX = (STRIDE - 1) / 2
_SHOULDERS = (COCO_KEYPOINTS.index("left_shoulder"), COCO_KEYPOINTS.index("right_shoulder"))
# A Gaussian is cut off where it falls below 0.4 % of its peak.
_GAUSSIAN_REACH_SIGMAS = 3.33
_SHORTEST_LIMB_PX = 1e-3


def network_keypoints(coco_P17x3: npt.ArrayLike) -> Floats:
    """Returns the network's 18 keypoints of people given in COCO's order.

    The neck is the midpoint of the shoulders and is present where both of them are labelled.

    Args:
        coco_P17x3: x, y and COCO visibility (0 unlabelled, 1 hidden, 2 visible).

    Returns:
        float32 [P, 18, 3], in the same frame; the neck has the lesser visibility of the shoulders.
    """
    coco = np.asarray(coco_P17x3, np.float32).reshape(-1, len(COCO_KEYPOINTS), 3)
    people = np.zeros((len(coco), NUM_KEYPOINTS, 3), np.float32)
    for index, source in enumerate(TO_COCO):
        if source is not None:
            people[:, index] = coco[:, source]
    left, right = (coco[:, shoulder] for shoulder in _SHOULDERS)
    people[:, NECK, :2] = (left[:, :2] + right[:, :2]) / 2
    people[:, NECK, 2] = np.minimum(left[:, 2], right[:, 2])
    people[people[..., 2] <= 0] = 0
    return people


def draw_heatmaps(
    keypoints_P18x3: Floats, grid_hw: tuple[int, int], sigma_px: float = 7.0
) -> Floats:
    """Returns heatmaps, float32 [K, h, w] in [0, 1]: Gaussian peaks, and the background last.

    Where people overlap, the greatest value is used. The background is 1 minus the greatest value
    of all other channels.

    Args:
        keypoints_P18x3: x and y in input pixels, and visibility; above 0 the keypoint is present.
        grid_hw: height and width of the network output.
        sigma_px: standard deviation of a peak, in input pixels.
    """
    heatmaps_Khw = np.zeros((NUM_HEATMAPS, *grid_hw), np.float32)
    for person_18x3 in keypoints_P18x3:
        for channel, (x_px, y_px, visibility) in enumerate(person_18x3.tolist()):
            if visibility > 0:
                _add_peak(heatmaps_Khw[channel], x_px, y_px, sigma_px)
    heatmaps_Khw[-1] = 1 - heatmaps_Khw[:-1].max(axis=0)
    return heatmaps_Khw


def draw_pafs(
    keypoints_P18x3: Floats, grid_hw: tuple[int, int], half_width_px: float = 8.0
) -> Floats:
    """Returns PAFs, float32 [C, h, w]: unit vectors from keypoint a to b of each limb, else 0.

    A cell belongs to a limb if its centre is at most `half_width_px` from the segment between the
    two keypoints. Where limbs of several people overlap the vectors are averaged, so that the field
    does not depend on the order of the people.

    Args:
        keypoints_P18x3: x and y in input pixels, and visibility; above 0 the keypoint is present.
        grid_hw: height and width of the network output.
        half_width_px: half the width of a limb, in input pixels.
    """
    pafs_Chw = np.zeros((NUM_PAFS, *grid_hw), np.float32)
    for start, end, channel_x, channel_y in LIMBS:
        counts_hw = np.zeros(grid_hw, np.float32)
        for person_18x3 in keypoints_P18x3:
            a, b = person_18x3[start], person_18x3[end]
            if a[2] > 0 and b[2] > 0:
                fields = (pafs_Chw[channel_x], pafs_Chw[channel_y])
                _add_limb(fields, counts_hw, a[:2], b[:2], half_width_px)
        pafs_Chw[[channel_x, channel_y]] /= np.maximum(counts_hw, 1)
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
