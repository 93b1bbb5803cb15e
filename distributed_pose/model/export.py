"""Writes a checkpoint's weights as ONNX, for compilers or as a checkpoint in ONNX format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from distributed_pose.errors import ConfigError
from distributed_pose.model.architecture import (
    INPUT_NAME,
    NORM_EPSILON,
    NORM_TENSORS,
    Convolution,
    Join,
    MapChannels,
    Weights,
    network_steps,
    output_names,
    weight_channels,
)
from distributed_pose.model.formats import ONNX_CHECKPOINT

# The oldest supported Ascend compiler (ATC 5.1) takes this opset.
DEFAULT_OPSET = 11

# In these opsets, the operators used here have the same attributes and types.
OPSETS = range(9, 21)

_PRODUCER = "distributed_pose"


def export_onnx(
    weights: Weights,
    *,
    refinement_stages: int = 1,
    opset: int = DEFAULT_OPSET,
    last_stage: bool = False,
) -> bytes:
    """Returns the network as serialised ONNX with dynamic batch, height and width.

    Batch normalisations are folded into the convolutions before them, so that the graph has only
    the operators Conv, Relu, Elu, Add and Concat.

    Args:
        weights: weights of the network; finite.
        refinement_stages: number of refinement stages of the network.
        opset: version of the ONNX operator set.
        last_stage: whether to leave out the outputs of the stages before the last one.

    Raises:
        ConfigError: if the opset is not supported.
    """
    if opset not in OPSETS:
        raise ConfigError(
            f"opset {opset} is not in {OPSETS[0]} to {OPSETS[-1]}",
            "choose one of these with --opset",
        )
    names = output_names(refinement_stages)
    channels = weight_channels(weights)
    graph = _Graph([], [])
    for step in network_steps(refinement_stages, channels):
        if isinstance(step, Join):
            graph.add_joined(step)
        else:
            graph.add_folded(step, weights)
    names = names[-2:] if last_stage else names
    return _serialised(graph, _ports(names, channels), opset, _PRODUCER)


def write_checkpoint(weights: Weights, *, refinement_stages: int = 1) -> bytes:
    """Returns the network as serialised ONNX that can also be loaded as a checkpoint.

    Any ONNX runtime runs it in float32. The weights are stored in half precision, so that the file
    is half as large as in float32. They have their published names, and batch normalisations are
    separate nodes, so that `load_checkpoint` reads the weights that were written.

    Args:
        weights: weights of the network, which are rounded to half precision, where they must be
            finite.
        refinement_stages: number of refinement stages of the network.
    """
    channels = weight_channels(weights)
    graph = _Graph([], [])
    for step in network_steps(refinement_stages, channels):
        if isinstance(step, Join):
            graph.add_joined(step)
        else:
            graph.add_stored(step, weights)
    outputs = _ports(output_names(refinement_stages), channels)
    return _serialised(graph, outputs, DEFAULT_OPSET, ONNX_CHECKPOINT)


@dataclass(frozen=True)
class _Graph:
    """The nodes and initialisers of a graph while it is being built."""

    nodes: list[NodeProto]
    initializers: list[TensorProto]

    def add_joined(self, step: Join) -> None:
        axis = {"axis": 1} if step.operator == "Concat" else {}
        self._add(step.operator, step.sources, step.result, **axis)

    def add_folded(self, layer: Convolution, weights: Weights) -> None:
        weight, bias = folded(layer, weights)
        self._initialise(f"{layer.name}.weight", weight)
        names = [f"{layer.name}.weight"]
        if bias is not None:
            self._initialise(f"{layer.name}.bias", bias)
            names.append(f"{layer.name}.bias")
        self._convolve(layer, names, f"{layer.name}.sum" if layer.activation else layer.result)
        self._activate(layer, f"{layer.name}.sum")

    def add_stored(self, layer: Convolution, weights: Weights) -> None:
        names = [f"{layer.name}.{kind}" for kind in ("weight", "bias")[: 1 + layer.bias]]
        value = f"{layer.name}.sum" if layer.norm or layer.activation else layer.result
        self._convolve(layer, [self._store(name, weights) for name in names], value)
        if layer.norm:
            tensors = [self._store(f"{layer.norm}.{kind}", weights) for kind in NORM_TENSORS]
            normalised = f"{layer.norm}.normalised"
            self._add("BatchNormalization", (value, *tensors), normalised, epsilon=NORM_EPSILON)
            value = normalised
        self._activate(layer, value)

    def _convolve(self, layer: Convolution, tensors: list[str], result: str) -> None:
        kernel = layer.shape[2:]
        padding = [layer.dilation * (size // 2) for size in kernel]
        self._add(
            "Conv",
            (layer.source, *tensors),
            result,
            dilations=[layer.dilation] * 2,
            group=layer.groups,
            kernel_shape=kernel,
            pads=padding * 2,
            strides=[layer.stride] * 2,
        )

    def _activate(self, layer: Convolution, value: str) -> None:
        if layer.activation:
            self._add(layer.activation, (value,), layer.result)

    def _store(self, name: str, weights: Weights) -> str:
        """Stores a tensor in half precision, and returns the name of its float32 value."""
        self._initialise(name, weights[name].astype(np.float16))
        self._add("Cast", (name,), f"{name}.float32", to=TensorProto.FLOAT)
        return f"{name}.float32"

    def _initialise(self, name: str, array: npt.NDArray[np.floating]) -> None:
        self.initializers.append(numpy_helper.from_array(array, name))

    def _add(self, operator: str, inputs: Sequence[str], result: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [result], result, **attributes))


def folded(
    layer: Convolution, weights: Weights
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Returns weight and bias of a convolution, with its batch normalisation folded into them.

    The arithmetic is float32, in the order of PyTorch's own fusion. The bias is None if the layer
    has neither a bias nor a batch normalisation.

    Args:
        layer: convolution, with or without a batch normalisation.
        weights: weights of the network.
    """
    weight = weights[f"{layer.name}.weight"]
    bias = weights[f"{layer.name}.bias"] if layer.bias else None
    if not layer.norm:
        return weight, bias
    gamma, beta, mean, variance = (weights[f"{layer.norm}.{kind}"] for kind in NORM_TENSORS)
    scale = gamma / np.sqrt(variance + np.float32(NORM_EPSILON))
    centred = -mean if bias is None else bias - mean
    return weight * scale[:, None, None, None], beta + centred * scale


def _ports(names: Sequence[str], channels: MapChannels) -> list[ValueInfoProto]:
    """Returns the descriptions of the outputs with the given names."""
    return [
        helper.make_tensor_value_info(
            name,
            TensorProto.FLOAT,
            [
                "batch",
                channels.heatmaps if "heatmaps" in name else channels.pafs,
                "map_height",
                "map_width",
            ],
        )
        for name in names
    ]


def _serialised(graph: _Graph, maps: Sequence[ValueInfoProto], opset: int, producer: str) -> bytes:
    image = helper.make_tensor_value_info(
        INPUT_NAME, TensorProto.FLOAT, ["batch", 3, "height", "width"]
    )
    made = helper.make_graph(graph.nodes, "lightweight_openpose", [image], maps, graph.initializers)
    opsets = [helper.make_opsetid("", opset)]
    # Old compilers refuse newer IR versions, so this is the oldest that has the operator set.
    ir_version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(
        made, opset_imports=opsets, ir_version=ir_version, producer_name=producer
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
