"""Network output to poses: the decoder of the reference implementation.

Source: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields",
arXiv:1611.08050, with the thresholds and the order of steps of Lightweight OpenPose's validation.

Array legend: K heatmaps, P PAF channels, H and W map size in cells.
"""

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.assemble import Poses, assemble
from distributed_pose.pose.limbs import find_limbs
from distributed_pose.pose.peaks import find_peaks
from distributed_pose.pose.resample import full_resolution
from distributed_pose.pose.skeleton import LIMBS, NUM_KEYPOINTS
from distributed_pose.records import Geometry


def decode(
    heatmaps_KHW: npt.NDArray[np.float32], pafs_PHW: npt.NDArray[np.float32], geometry: Geometry
) -> Poses:
    """Returns the poses in one image, in image pixels.

    Args:
        heatmaps_KHW: float32 [19, H, W], last stage, background last.
        pafs_PHW: float32 [38, H, W], last stage.
        geometry: how the image lies in the network input of 8H x 8W pixels.
    """
    heatmaps_hwK = full_resolution(heatmaps_KHW[:NUM_KEYPOINTS], geometry)
    pafs_hwP = full_resolution(pafs_PHW, geometry)
    candidates = [find_peaks(heatmaps_hwK[:, :, k]) for k in range(NUM_KEYPOINTS)]
    limbs = [
        find_limbs(pafs_hwP[:, :, (x, y)], candidates[a], candidates[b]) for a, b, x, y in LIMBS
    ]
    return assemble(candidates, limbs)
