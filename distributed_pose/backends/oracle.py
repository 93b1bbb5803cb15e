"""A backend that draws heatmaps and PAFs from the ground truth.

It replaces only the network, so that the whole system must reach a known AP.
"""

import json
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    NetworkOutput,
    SynchronousBackend,
)
from distributed_pose.errors import SetupError
from distributed_pose.pose.targets import draw_heatmaps, draw_pafs, network_keypoints
from distributed_pose.records.images import STRIDE, Geometry


class OracleBackend(SynchronousBackend):
    """Draws the labelled people of each image, without crowds.

    The backend's artifact is the ground truth of a `CocoIndex` as JSON. An image without
    annotations has no people.
    """

    precision = "f32"
    description = "ground truth"

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        # No other option applies: it draws in float32 on one thread.
        self._keypoints = options.keypoints
        people: dict[int, list[list[float]]] = defaultdict(list)
        for annotation in json.loads(content)["annotations"]:
            if not annotation.get("iscrowd") and annotation.get("num_keypoints"):
                people[annotation["image_id"]].append(annotation["keypoints"])
        self._people: dict[int, list[list[float]]] | None = dict(people)

    def people(self, image_id: int) -> list[list[float]]:
        """Returns x, y and visibility of each labelled person's keypoints, in the dataset's order.

        Raises:
            SetupError: if the backend is closed.
        """
        if self._people is None:
            raise SetupError("the backend is closed")
        return self._people.get(image_id, [])

    def run(self, batch: InputBatch) -> NetworkOutput:
        input_height, input_width = batch.inputs_N3HW.shape[2:]
        grid_hw = -(-input_height // STRIDE), -(-input_width // STRIDE)
        heatmaps, pafs = [], []
        for image_id, geometry in zip(batch.image_ids, batch.geometries, strict=True):
            people_PKx3 = network_keypoints(self.people(image_id), self._keypoints)
            _to_input_px(people_PKx3, geometry, (input_height, input_width))
            heatmaps.append(draw_heatmaps(people_PKx3, grid_hw))
            pafs.append(draw_pafs(people_PKx3, self._keypoints.limbs, grid_hw))
        return NetworkOutput(np.stack(heatmaps), np.stack(pafs))

    def close(self) -> None:
        self._people = None


def _to_input_px(
    people_PKx3: npt.NDArray[np.float32], geometry: Geometry, input_hw: tuple[int, int]
) -> None:
    """Converts keypoints from image pixels to network input pixels, in place.

    The origin of COCO's coordinates is the corner of the first pixel, and that of network targets
    is its centre.
    """
    width = input_hw[1] - geometry.pad_left - geometry.pad_right
    height = input_hw[0] - geometry.pad_top - geometry.pad_bottom
    people_PKx3[..., 0] *= width / geometry.image_width
    people_PKx3[..., 1] *= height / geometry.image_height
    people_PKx3[..., 0] += geometry.pad_left - 0.5
    people_PKx3[..., 1] += geometry.pad_top - 0.5
