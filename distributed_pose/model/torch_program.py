"""Checkpoint to a program that PyTorch runs without this package, for every device.

Array legend: N images, H and W network input size in pixels.
"""

import copy
import io

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from distributed_pose.errors import SetupError, first_line
from distributed_pose.model.network import LightweightOpenPose

HEATMAPS, PAFS = "heatmaps", "pafs"

# None of the sizes is 1, which the exporter takes for a constant.
_TRACED_N3HW = (2, 3, 64, 96)
_CHECKED_N3HW = (3, 3, 96, 64)

# Largest difference to the network, relative to its outputs: float32 rounding of about 60 layers
# whose normalisation has become part of the weights.
_TOLERANCE = 1e-4


class _LastStage(nn.Module):
    """Returns the last stage's maps by name, of float32 inputs or of bytes."""

    scale: torch.Tensor

    def __init__(self, network: LightweightOpenPose, *, on_bytes: bool) -> None:
        super().__init__()
        self.network = network
        self.on_bytes = on_bytes
        # A tensor, so that bytes become what the weights are: float32, or half where it is cast.
        self.register_buffer("scale", torch.full((1,), 1 / 256))

    def forward(self, data: torch.Tensor) -> dict[str, torch.Tensor]:
        # Exact in half precision, too, and the same as (data - 128) / 256.
        images_N3HW = data * self.scale - 0.5 if self.on_bytes else data
        heatmaps, pafs = self.network(images_N3HW)[-2:]
        return {HEATMAPS: heatmaps, PAFS: pafs}


def export_program(network: LightweightOpenPose, *, on_bytes: bool) -> bytes:
    """Returns the network as a program of `torch.export`, for any batch, height and width.

    Its input is [N, 3, H, W], its outputs are the last stage's maps by name. Cast to another
    type, it computes in that one. It is read by the same or a newer PyTorch, and reading it trusts
    it: the format has room for pickles.

    Args:
        network: in evaluation mode.
        on_bytes: whether the input is uint8 and normalised inside, instead of float32.

    Raises:
        SetupError: if it cannot be exported, or the program's outputs differ from the network's.
    """
    folded = _LastStage(_without_normalisation(network), on_bytes=on_bytes).eval()
    dtype = torch.uint8 if on_bytes else torch.float32
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    traced = (torch.zeros(_TRACED_N3HW, dtype=dtype),)
    try:
        program = torch.export.export(folded, traced, dynamic_shapes=(dynamic,))
    # The exporter documents no common class of what it raises.
    except Exception as error:  # noqa: BLE001
        raise SetupError(f"PyTorch cannot export the network: {first_line(error)}") from None
    _check(_LastStage(network, on_bytes=on_bytes).eval(), program)
    # Otherwise the traced input is stored, too.
    program.example_inputs = None
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def _without_normalisation(network: LightweightOpenPose) -> LightweightOpenPose:
    """Returns a copy whose batch normalisations are part of the convolutions before them."""
    folded = copy.deepcopy(network).eval()
    for layers in (module for module in folded.modules() if isinstance(module, nn.Sequential)):
        for index in range(len(layers) - 1):
            convolution, norm = layers[index], layers[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                layers[index] = fuse_conv_bn_eval(convolution, norm)
                layers[index + 1] = nn.Identity()
    return folded


def _check(expected: _LastStage, program: torch.export.ExportedProgram) -> None:
    noise = np.random.default_rng(0).integers(0, 256, _CHECKED_N3HW)
    images_N3HW = torch.from_numpy(noise.astype(np.uint8))
    if not expected.on_bytes:
        images_N3HW = images_N3HW / 256 - 0.5
    with torch.inference_mode():
        wanted, found = expected(images_N3HW), program.module(check_guards=False)(images_N3HW)
    for name, output in wanted.items():
        difference = float((found[name] - output).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(output.abs().max())):
            raise SetupError(f"exported output {name} differs from PyTorch by {difference:.2g}")
