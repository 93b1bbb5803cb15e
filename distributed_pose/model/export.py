"""Checkpoint to ONNX, checked against PyTorch before it is called done.

Array legend: N images, H and W network input size in pixels.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.model.network import LightweightOpenPose

# What the oldest supported Ascend compiler (ATC 5.1) takes.
DEFAULT_OPSET = 11

# What PyTorch's TorchScript exporter writes.
OPSETS = range(9, 21)

INPUT_NAME = "data"

# Largest difference to PyTorch: float32 rounding of about 60 layers, for maps of order one.
_TOLERANCE = 1e-4

# Another batch and size than the traced one, so that a shape frozen by the tracer is found.
_TRACED_N3HW = (1, 3, 64, 96)
_CHECKED_N3HW = (2, 3, 96, 64)


def output_names(refinement_stages: int = 1) -> tuple[str, ...]:
    """Returns the vendor guide's names of the outputs, in the network's order.

    The last two are heatmaps and PAFs of the last stage.
    """
    maps = ("output_1_heatmaps", "output_0_pafs")
    return tuple(f"stage_{stage}_{name}" for stage in range(refinement_stages + 1) for name in maps)


class _LastStage(torch.nn.Module):
    def __init__(self, network: LightweightOpenPose) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_N3HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: tuple[torch.Tensor, ...] = self.network(images_N3HW)
        return outputs[-2:]


def export_onnx(
    network: LightweightOpenPose, *, opset: int = DEFAULT_OPSET, last_stage: bool = False
) -> bytes:
    """Returns the network as serialised ONNX with dynamic batch, height and width.

    Args:
        network: in evaluation mode.
        opset: ONNX operator set.
        last_stage: leave out the outputs of the stages before the last one.

    Raises:
        ConfigError: if the opset cannot be had.
        SetupError: if ONNX Runtime's outputs differ from PyTorch's.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset} is not in {OPSETS[0]} to {OPSETS[-1]}", "see --opset")
    # In evaluation mode as a whole: the exporter puts every module back into its root's mode.
    model = _LastStage(network).eval() if last_stage else network
    names = output_names(len(network.refinement_stages))
    names = names[-2:] if last_stage else names
    content = _export(model, names, opset)
    _check(model, content, names)
    return content


def _export(model: torch.nn.Module, names: tuple[str, ...], opset: int) -> bytes:
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        # Only the TorchScript exporter writes operator sets below 18.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.zeros(_TRACED_N3HW),),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=list(names),
            dynamic_axes=dict.fromkeys((INPUT_NAME, *names), axes),
        )
        content = file.read_bytes()
    onnx.checker.check_model(onnx.load_model_from_string(content))
    return content


def _check(model: torch.nn.Module, content: bytes, names: tuple[str, ...]) -> None:
    images_N3HW = np.random.default_rng(0).uniform(-0.5, 0.5, _CHECKED_N3HW).astype(np.float32)
    with torch.inference_mode():
        expected = [output.numpy() for output in model(torch.from_numpy(images_N3HW))]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for name, wanted, found in zip(
        names, expected, session.run(list(names), {INPUT_NAME: images_N3HW}), strict=True
    ):
        difference = float(np.abs(wanted - found).max()) if wanted.shape == found.shape else np.inf
        # Weights of any scale are allowed, so the tolerance grows with the output.
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise SetupError(f"exported output {name} differs from PyTorch by {difference:.2g}")
