"""Exports a checkpoint as a program that PyTorch runs on any device, without this package.

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
from distributed_pose.records.images import BYTE_RANGE, MEAN_BYTE

HEATMAPS, PAFS = "heatmaps", "pafs"

# None of the dynamic sizes is 1, because the exporter takes a size of 1 for a constant.
_TRACED_N3HW = (2, 3, 64, 96)
_CHECKED_N3HW = (3, 3, 96, 64)

# The largest difference to the network, relative to its outputs. It allows for float32 rounding in
# about 60 layers whose normalisation is folded into the weights.
_TOLERANCE = 1e-4


_OFFSET = MEAN_BYTE / BYTE_RANGE


class _LastStage(nn.Module):
    """Returns the last stage's maps by name, for inputs of float32 or of bytes.

    Args:
        network: network in evaluation mode.
        on_bytes: whether the inputs are uint8 and normalised inside, instead of float32.
    """

    scale: torch.Tensor

    def __init__(self, network: LightweightOpenPose, *, on_bytes: bool) -> None:
        super().__init__()
        self.network = network
        self.on_bytes = on_bytes
        # The scale is a buffer, so that it has the type of the weights, and bytes become float32,
        # or float16 if the program is cast.
        self.register_buffer("scale", torch.full((1,), 1 / BYTE_RANGE))

    def forward(self, data: torch.Tensor) -> dict[str, torch.Tensor]:
        # This equals (data - 128) / 256, and is exact in half precision, too.
        images_N3HW = data * self.scale - _OFFSET if self.on_bytes else data
        heatmaps, pafs = self.network(images_N3HW)[-2:]
        return {HEATMAPS: heatmaps, PAFS: pafs}


def export_program(network: LightweightOpenPose, *, on_bytes: bool) -> bytes:
    """Returns the network as a program of `torch.export`, for any batch, height and width.

    The input is [N, 3, H, W], and the outputs are the last stage's maps by name. A program that is
    cast to another type computes in that type. The same version of PyTorch or a newer one can load
    the program. Only trusted programs may be loaded, since the format can contain pickles.

    Args:
        network: network in evaluation mode.
        on_bytes: whether the input is uint8 and normalised inside, instead of float32.

    Raises:
        SetupError: if the network cannot be exported, or the program's outputs differ from the
            network's.
    """
    folded = _LastStage(_without_normalisation(network), on_bytes=on_bytes).eval()
    dtype = torch.uint8 if on_bytes else torch.float32
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    traced = (torch.zeros(_TRACED_N3HW, dtype=dtype),)
    try:
        program = torch.export.export(folded, traced, dynamic_shapes=(dynamic,))
    # The exporter documents no common base class of its exceptions.
    except Exception as error:  # noqa: BLE001
        raise SetupError(f"PyTorch cannot export the network: {first_line(error)}") from None
    _check(_LastStage(network, on_bytes=on_bytes).eval(), program)
    # Without this, the program would also store the traced input.
    program.example_inputs = None
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def _without_normalisation(network: LightweightOpenPose) -> LightweightOpenPose:
    """Returns a copy whose batch normalisations are folded into the convolutions before them."""
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
        images_N3HW = images_N3HW / BYTE_RANGE - _OFFSET
    with torch.inference_mode():
        wanted, found = expected(images_N3HW), program.module(check_guards=False)(images_N3HW)
    for name, output in wanted.items():
        difference = float((found[name] - output).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(output.abs().max())):
            raise SetupError(f"exported output {name} differs from PyTorch by {difference:.2g}")
