"""Network maps to maps at image resolution, as the reference does it.

Array legend: H and W map size in cells, h and w image size in pixels, C channels.
"""

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.pose.skeleton import STRIDE
from distributed_pose.records import Geometry


def full_resolution(
    maps_CHW: npt.NDArray[np.float32], geometry: Geometry
) -> npt.NDArray[np.float32]:
    """Returns float32 [h, w, C]: maps enlarged to the input, cropped, then resized to the image.

    Two cubic resizes in a row are not one: the reference does both, and peaks depend on it.
    """
    maps_HWC = np.ascontiguousarray(maps_CHW.transpose(1, 2, 0), np.float32)
    enlarged = cv2.resize(maps_HWC, None, fx=STRIDE, fy=STRIDE, interpolation=cv2.INTER_CUBIC)
    height, width = enlarged.shape[:2]
    cropped = enlarged[
        geometry.pad_top : height - geometry.pad_bottom,
        geometry.pad_left : width - geometry.pad_right,
    ]
    size = (geometry.image_width, geometry.image_height)
    return np.asarray(cv2.resize(cropped, size, interpolation=cv2.INTER_CUBIC), np.float32)
