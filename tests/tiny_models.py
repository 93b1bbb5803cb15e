"""ONNX models of one layer, with the inputs and outputs of a pose network."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16


def save_constant_model(
    path: Path,
    value: float = 0.0,
    heatmaps: int = 19,
    batch: int | str = "n",
    *,
    mixing: bool = False,
    most: int = 0,
) -> Path:
    """Returns the path of a model with a stride of 8 whose every output is `value`.

    With `mixing`, the statistics of the whole batch are added to each of its images. With `most`,
    batches of more images fail as if memory ran out.
    """
    outputs = {"heatmaps": heatmaps, "pafs": 38}
    weights, nodes = [], []
    for name, channels in outputs.items():
        kernel = np.zeros((channels, 3, 8, 8), np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{name}.weight"))
        bias = np.full(channels, value, np.float32)
        weights.append(numpy_helper.from_array(bias, f"{name}.bias"))
        image = "data.checked" if most else "data"
        inputs = [image, f"{name}.weight", f"{name}.bias"]
        plain = f"{name}.plain" if mixing else name
        nodes.append(helper.make_node("Conv", inputs, [plain], strides=[8, 8]))
        if mixing:
            spread = [
                helper.make_node("Mul", ["data", "data"], [f"{name}.squares"]),
                helper.make_node(
                    "ReduceMean", [f"{name}.squares"], [f"{name}.mean"], axes=[0, 1, 2, 3]
                ),
                helper.make_node("Add", [plain, f"{name}.mean"], [name]),
            ]
            nodes += spread
    if most:
        weights += [
            numpy_helper.from_array(np.zeros(most, np.float32), "room"),
            numpy_helper.from_array(np.array(0), "batch axis"),
            numpy_helper.from_array(np.array(1), "one"),
        ]
        # The table has no entry for one image too many.
        nodes[:0] = [
            helper.make_node("Shape", ["data"], ["shape"]),
            helper.make_node("Gather", ["shape", "batch axis"], ["count"]),
            helper.make_node("Sub", ["count", "one"], ["last"]),
            helper.make_node("Gather", ["room", "last"], ["nothing"]),
            helper.make_node("Add", ["data", "nothing"], ["data.checked"]),
        ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, "h", "w"])
        for name, channels in {"data": 3, **outputs}.items()
    ]
    graph = helper.make_graph(nodes, "constant", ports[:1], ports[1:], weights)
    opset = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=7), path)
    return path


def save_external_model(path: Path, value: float = 0.0) -> Path:
    """Returns the path of a constant model whose weights are in `NAME.data` beside it."""
    path.parent.mkdir(exist_ok=True)
    model = onnx.load(save_constant_model(path, value))
    name = f"{path.name}.data"
    path.with_name(name).unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=0)
    return path


def random_model(path: Path) -> bytes:
    """Returns a model of one layer with random weights, for any batch and size."""
    model = onnx.load(save_constant_model(path, value=0.5))
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            values = generator.standard_normal(tuple(tensor.dims)).astype(np.float32) / 14
            tensor.raw_data = values.tobytes()
    return bytes(model.SerializeToString())


def with_halves(content: bytes) -> bytes:
    """Returns a model with half-precision inputs and outputs, as other tools export it."""
    return bytes(convert_float_to_float16(onnx.load_model_from_string(content)).SerializeToString())
