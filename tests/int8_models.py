"""A small network that can be quantised, and helpers of its tests."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from distributed_pose.backends.base import InputBatch
from distributed_pose.records.images import Geometry

needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="NNCF is not installed")
needs_int8 = pytest.mark.skipif(
    "INT8" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this processor has no native int8",
)

# Name, shape of the weights, and stride. Most layers are depthwise, but most weights are not.
_BODY = (
    ("first", (32, 3, 8, 8), 8),
    *((f"depthwise{number}", (32, 1, 3, 3), 1) for number in range(3)),
    ("wide", (32, 32, 3, 3), 1),
)
_HEADS = (("heatmaps", (19, 32, 1, 1), 1), ("pafs", (38, 32, 1, 1), 1))


def small_network(*, only_heads: bool = False, batch: int | str = "n") -> bytes:
    """Returns ONNX of a few layers with random weights and stride 8."""
    body = () if only_heads else _BODY
    weights, nodes, value = [], [], "data"
    generator = np.random.default_rng(0)
    for name, shape, stride in (*body, *_HEADS):
        sized = (shape[0], 3, 8, 8) if only_heads else shape
        scale = np.sqrt(2 / np.prod(sized[1:]))
        array = (generator.standard_normal(sized) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"{name}.weight"))
        if name in {"heatmaps", "pafs"}:
            nodes.append(_convolution(name, value, name, sized, 8 if only_heads else stride))
        else:
            nodes.append(_convolution(name, value, f"{name}.linear", sized, stride))
            nodes.append(helper.make_node("Elu", [f"{name}.linear"], [f"{name}.out"]))
            value = f"{name}.out"
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, "h", "w"])
        for name, channels in {"data": 3, "heatmaps": 19, "pafs": 38}.items()
    ]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], weights)
    opset = [helper.make_opsetid("", 11)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=7)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def _convolution(
    name: str, source: str, target: str, shape: tuple[int, ...], stride: int
) -> NodeProto:
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]} if shape[2] == 3 else {}
    grouped: dict[str, Any] = {"group": shape[0]} if shape[1] == 1 else {}
    inputs = [source, f"{name}.weight"]
    return helper.make_node("Conv", inputs, [target], name, strides=[stride] * 2, **same, **grouped)


def random_inputs(count: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """Returns float32 [count, 3, height, width] in the range of normalised images."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-0.5, 0.5, (count, 3, height, width)).astype(np.float32)


def batch_of(inputs_N3HW: np.ndarray) -> InputBatch:
    """Returns a batch whose images have the size of their inputs."""
    count, _, height, width = inputs_N3HW.shape
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs_N3HW)
