"""The layers of Lightweight OpenPose as data, for code that reads, writes or converts its weights.

`network.py` is the same network as a PyTorch module; the tests compare the two.

Source: Osokin, "Real-time 2D Multi-Person Pose Estimation on CPU: Lightweight OpenPose",
arXiv:1811.12004: MobileNet v1 up to conv5_5, a CPM block, one initial and some refinement stages.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.keypoints.sets import KeypointSet

# The arrays of weights, by their names in the published checkpoint.
Weights = Mapping[str, npt.NDArray[np.float32]]

INPUT_NAME = "data"

FEATURES = 128
STEM_CHANNELS = 32
INITIAL_HEAD_CHANNELS = 512
CPM_BLOCKS = 3
INITIAL_BLOCKS = 3
REFINEMENT_BLOCKS = 5

# (output channels, stride, dilation) of the depthwise-separable blocks: conv2_1 to conv5_5. The
# last downsampling of MobileNet is replaced by a dilation, which keeps the stride at 8.
BACKBONE_BLOCKS = (
    (64, 1, 1),
    (128, 2, 1),
    (128, 1, 1),
    (256, 2, 1),
    (256, 1, 1),
    (512, 1, 1),
    (512, 1, 2),
    (512, 1, 1),
    (512, 1, 1),
    (512, 1, 1),
    (512, 1, 1),
)

# The epsilon of the batch normalisations is PyTorch's default.
NORM_EPSILON = 1e-5

# The tensors of a batch normalisation, in the order in which the ONNX operator takes them.
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")

# The layers whose output channels are the heatmaps and the PAFs of the network.
_HEADS = ("initial_stage.heatmaps.1.0.weight", "initial_stage.pafs.1.0.weight")


class MapChannels(NamedTuple):
    """The channels of a network's maps; by default those of the published checkpoint.

    Attributes:
        heatmaps: number of heatmaps, of which the last is the background.
        pafs: number of PAF channels, two per limb.
    """

    heatmaps: int = 19
    pafs: int = 38


PUBLISHED_CHANNELS = MapChannels()


@dataclass(frozen=True)
class Convolution:
    """A convolution, with the batch normalisation and the activation that follow it.

    Attributes:
        name: prefix of the convolution's tensors in the published checkpoint, such as `model.1.0`.
        source: name of the value that the convolution reads.
        result: name of the value that the last of the three makes.
        shape: shape of the weight: output channels, input channels per group, kernel height and
            width.
        stride: stride in both directions.
        dilation: dilation in both directions.
        groups: number of groups of channels.
        bias: whether the convolution has a bias.
        norm: prefix of the batch normalisation's tensors; empty if there is no normalisation.
        activation: ONNX operator of the activation; empty if there is no activation.
    """

    name: str
    source: str
    result: str
    shape: tuple[int, int, int, int]
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    norm: str = ""
    activation: str = "Relu"


@dataclass(frozen=True)
class Join:
    """A sum or a concatenation along the channels.

    Attributes:
        operator: ONNX operator, `Add` or `Concat`.
        sources: names of the values that the operator reads.
        result: name of the value that the operator makes.
    """

    operator: str
    sources: tuple[str, ...]
    result: str


Step = Convolution | Join


def output_names(refinement_stages: int = 1) -> tuple[str, ...]:
    """Returns the vendor guide's names of the outputs, in the network's order.

    The last two are the names of the last stage's heatmaps and PAFs.
    """
    stages = range(refinement_stages + 1)
    return tuple(name for stage in stages for name in _stage_outputs(stage))


def set_channels(keypoints: KeypointSet) -> MapChannels:
    """Returns the channels of a network for a keypoint set."""
    return MapChannels(keypoints.num_heatmaps, keypoints.num_pafs)


def map_channels(shapes: Mapping[str, tuple[int, ...]]) -> MapChannels:
    """Returns the channels of the network that weights belong to.

    Args:
        shapes: shapes of the weights by name. The published channels stand for missing heads.
    """
    found = (next(iter(shapes.get(name, ())), 0) for name in _HEADS)
    sizes = zip(found, PUBLISHED_CHANNELS, strict=True)
    return MapChannels(*(size or published for size, published in sizes))


def weight_channels(weights: Weights) -> MapChannels:
    """Returns the channels of the network that weights belong to."""
    return map_channels({name: weights[name].shape for name in _HEADS})


@cache
def network_steps(
    refinement_stages: int = 1, channels: MapChannels = PUBLISHED_CHANNELS
) -> tuple[Step, ...]:
    """Returns the network's steps, each after the steps on which it depends."""
    builder = _Builder(channels)
    features = builder.cpm(builder.backbone())
    builder.initial_stage(features)
    for stage in range(refinement_stages):
        builder.refinement_stage(features, stage)
    return tuple(builder.steps)


@cache
def tensor_shapes(
    refinement_stages: int = 1, channels: MapChannels = PUBLISHED_CHANNELS
) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes of the network's weights by their names in the published checkpoint.

    The counters of training batches are left out, since no result depends on them.
    """
    steps = network_steps(refinement_stages, channels)
    convolutions = (step for step in steps if isinstance(step, Convolution))
    return {name: shape for layer in convolutions for name, shape in _tensors(layer)}


def _tensors(layer: Convolution) -> Iterator[tuple[str, tuple[int, ...]]]:
    channels = layer.shape[:1]
    yield f"{layer.name}.weight", layer.shape
    if layer.bias:
        yield f"{layer.name}.bias", channels
    if layer.norm:
        for tensor in NORM_TENSORS:
            yield f"{layer.norm}.{tensor}", channels


def _stage_outputs(stage: int) -> tuple[str, str]:
    return f"stage_{stage}_output_1_heatmaps", f"stage_{stage}_output_0_pafs"


@dataclass
class _Builder:
    """Collects steps; each method returns the name of the value that its last step makes."""

    maps: MapChannels
    steps: list[Step] = field(default_factory=list)

    def backbone(self) -> str:
        stem = (STEM_CHANNELS, 3, 3, 3)
        value = self._add(
            Convolution(
                "model.0.0", INPUT_NAME, "model.0", stem, stride=2, bias=False, norm="model.0.1"
            )
        )
        inputs = STEM_CHANNELS
        for index, (outputs, stride, dilation) in enumerate(BACKBONE_BLOCKS, 1):
            value = self._separable(
                value, f"model.{index}", (inputs, outputs), stride=stride, dilation=dilation
            )
            inputs = outputs
        return value

    def cpm(self, value: str) -> str:
        aligned = self._block(value, "cpm.align", (FEATURES, BACKBONE_BLOCKS[-1][0], 1, 1))
        value = aligned
        for index in range(CPM_BLOCKS):
            value = self._separable_without_norm(value, f"cpm.trunk.{index}")
        value = self._add(Join("Add", (aligned, value), "cpm.sum"))
        return self._block(value, "cpm.conv", (FEATURES, FEATURES, 3, 3))

    def initial_stage(self, value: str) -> None:
        for index in range(INITIAL_BLOCKS):
            name = f"initial_stage.trunk.{index}"
            value = self._block(value, name, (FEATURES, FEATURES, 3, 3))
        self._heads(value, "initial_stage", INITIAL_HEAD_CHANNELS, _stage_outputs(0))

    def refinement_stage(self, features: str, stage: int) -> None:
        name = f"refinement_stages.{stage}"
        value = self._add(Join("Concat", (features, *_stage_outputs(stage)), f"{name}.input"))
        channels = FEATURES + sum(self.maps)
        for index in range(REFINEMENT_BLOCKS):
            value = self._refinement_block(value, f"{name}.trunk.{index}", channels)
            channels = FEATURES
        self._heads(value, name, FEATURES, _stage_outputs(stage + 1))

    def _refinement_block(self, value: str, name: str, channels: int) -> str:
        initial = self._block(value, f"{name}.initial", (FEATURES, channels, 1, 1))
        shape = (FEATURES, FEATURES, 3, 3)
        value = self._block(initial, f"{name}.trunk.0", shape, norm=True)
        value = self._block(value, f"{name}.trunk.1", shape, dilation=2, norm=True)
        return self._add(Join("Add", (initial, value), f"{name}.sum"))

    def _heads(self, value: str, stage: str, hidden: int, results: tuple[str, str]) -> None:
        kinds = (("heatmaps", self.maps.heatmaps), ("pafs", self.maps.pafs))
        for (kind, channels), result in zip(kinds, results, strict=True):
            name = f"{stage}.{kind}"
            inner = self._block(value, f"{name}.0", (hidden, FEATURES, 1, 1))
            shape = (channels, hidden, 1, 1)
            self._add(Convolution(f"{name}.1.0", inner, result, shape, activation=""))

    def _separable(
        self, value: str, name: str, channels: tuple[int, int], *, stride: int, dilation: int
    ) -> str:
        inputs, outputs = channels
        depthwise = Convolution(
            f"{name}.0",
            value,
            f"{name}.depthwise",
            (inputs, 1, 3, 3),
            stride=stride,
            dilation=dilation,
            groups=inputs,
            bias=False,
            norm=f"{name}.1",
        )
        shape, norm = (outputs, inputs, 1, 1), f"{name}.4"
        source = self._add(depthwise)
        return self._add(Convolution(f"{name}.3", source, name, shape, bias=False, norm=norm))

    def _separable_without_norm(self, value: str, name: str) -> str:
        depthwise = Convolution(
            f"{name}.0",
            value,
            f"{name}.depthwise",
            (FEATURES, 1, 3, 3),
            groups=FEATURES,
            bias=False,
            activation="Elu",
        )
        shape = (FEATURES, FEATURES, 1, 1)
        source = self._add(depthwise)
        return self._add(
            Convolution(f"{name}.2", source, name, shape, bias=False, activation="Elu")
        )

    def _block(
        self,
        value: str,
        name: str,
        shape: tuple[int, int, int, int],
        *,
        dilation: int = 1,
        norm: bool = False,
    ) -> str:
        norm_name = f"{name}.1" if norm else ""
        return self._add(
            Convolution(f"{name}.0", value, name, shape, dilation=dilation, norm=norm_name)
        )

    def _add(self, step: Step) -> str:
        self.steps.append(step)
        return step.result
