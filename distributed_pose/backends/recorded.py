"""Replays recorded maps of an earlier run or of a benchmark tool, in place of a model."""

import numpy as np

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    NetworkOutput,
    SynchronousBackend,
)
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.recordings.manifest import Manifest, load_manifest
from distributed_pose.records.images import STRIDE


class RecordedBackend(SynchronousBackend):
    """Reads the maps of each image from a folder, which the backend's process must see.

    The backend's artifact is a manifest. Images that are not in the manifest, such as those of a
    warm-up, get maps of zeros.

    Raises:
        SetupError: if the maps are known to be computed in another precision than requested.
    """

    description = "recorded maps"

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        manifest = load_manifest(content)
        self.precision = manifest.precision
        if options.precision not in {"auto", self.precision} and self.precision != "unknown":
            raise SetupError(
                f"precision: the maps in {manifest.recording.folder} were computed in "
                f"{self.precision}, not {options.precision}",
                "set precision=auto",
            )
        self._manifest: Manifest | None = manifest
        self._channels = options.keypoints.num_heatmaps, options.keypoints.num_pafs

    def run(self, batch: InputBatch) -> NetworkOutput:
        if self._manifest is None:
            raise SetupError("the backend is closed")
        height, width = (size // STRIDE for size in batch.inputs_N3HW.shape[2:])
        count = len(batch.image_ids)
        heatmaps_NKHW, pafs_NPHW = (
            np.zeros((count, channels, height, width), np.float32) for channels in self._channels
        )
        for index, image_id in enumerate(batch.image_ids):
            if image_id in self._manifest.missing:
                raise ExecutionError("the recorded run has no maps of it", image_ids=(image_id,))
            if name := self._manifest.names.get(image_id):
                maps = self._manifest.recording.read(name, self._channels, (height, width))
                heatmaps_NKHW[index], pafs_NPHW[index] = maps
        return NetworkOutput(heatmaps_NKHW, pafs_NPHW)

    def close(self) -> None:
        self._manifest = None
