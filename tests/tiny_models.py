"""ONNX models of one layer, with the inputs and outputs of a pose network."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_constant_model(
    path: Path, value: float = 0.0, heatmaps: int = 19, batch: int | str = "n"
) -> Path:
    """Returns the path of a model with a stride of 8 whose every output is `value`."""
    outputs = {"heatmaps": heatmaps, "pafs": 38}
    weights, nodes = [], []
    for name, channels in outputs.items():
        kernel = np.zeros((channels, 3, 8, 8), np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{name}.weight"))
        bias = np.full(channels, value, np.float32)
        weights.append(numpy_helper.from_array(bias, f"{name}.bias"))
        inputs = ["data", f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], strides=[8, 8]))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, "h", "w"])
        for name, channels in {"data": 3, **outputs}.items()
    ]
    graph = helper.make_graph(nodes, "constant", ports[:1], ports[1:], weights)
    opset = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=7), path)
    return path
