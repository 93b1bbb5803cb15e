"""A backend in a package of its own: the DNN module of OpenCV runs the model on CPUs.

Install it on every node, and name it:

    pip install ./examples/custom_backend
    distributed-pose evaluate --set backend=opencv

The entry point in `pyproject.toml` registers `SPEC` under the name `opencv`.
"""

from typing import Any

import numpy as np

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    NetworkOutput,
    SynchronousBackend,
)
from distributed_pose.backends.needs import Module
from distributed_pose.backends.ports import select_outputs
from distributed_pose.backends.spec import BackendSpec
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.model.onnx_graph import output_ports

SPEC = BackendSpec(
    factory="custom_backend:OpenCvBackend",
    kinds=("cpu",),
    precisions=("f32",),
    default="f32",
    # A checkpoint is exported to ONNX, which OpenCV reads.
    compiler="distributed_pose.model.makers:ONNX",
    needs=(Module("cv2", "pip install opencv-python-headless"),),
    distributions=("opencv-python-headless",),
)


class OpenCvBackend(SynchronousBackend):
    """A network of OpenCV, which computes in float32."""

    precision = "f32"

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        # A runtime is loaded where it is used: listing devices loads this module, too.
        import cv2

        cv2.setNumThreads(options.threads)
        self.description = f"OpenCV {cv2.__version__}"
        self._outputs = select_outputs(output_ports(content), options.keypoints)
        self._cv2: Any = cv2
        try:
            self._network: Any = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        except cv2.error as error:
            raise SetupError(f"OpenCV cannot load the model: {first_line(error)}") from None

    def run(self, batch: InputBatch) -> NetworkOutput:
        if self._network is None:
            raise SetupError("the backend is closed")
        try:
            self._network.setInput(batch.inputs_N3HW)
            maps = self._network.forward(self._outputs)
        except self._cv2.error as error:
            raise ExecutionError(
                f"OpenCV cannot run the model: {first_line(error)}", image_ids=batch.image_ids
            ) from None
        # OpenCV may use the memory of its answers again.
        return NetworkOutput(*(np.array(array, np.float32) for array in maps))

    def close(self) -> None:
        self._network = None
