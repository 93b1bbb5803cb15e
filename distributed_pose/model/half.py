"""Converts ONNX of float32 to ONNX that computes in half precision; the inputs keep their types.

Array legend: N images, H and W network input size in pixels.
"""

from collections.abc import Iterable
from graphlib import TopologicalSorter

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from distributed_pose.errors import SetupError, first_line
from distributed_pose.model.onnx_graph import image_inputs, inner_graphs, parse_checked
from distributed_pose.records.images import BYTE_RANGE, MEAN_BYTE

_LARGEST = float(np.finfo(np.float16).max)

# The sizes of dimensions that the model leaves open, for the comparison with float32.
_CHECKED_N3HW = (1, 3, 64, 96)

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}

# The largest difference to float32, relative to the outputs. Half precision has 11 bits, and a
# difference of up to five of its steps was measured after about 60 layers.
_TOLERANCE = 0.02

# ONNX Runtime's log is silenced: it prints names of the model unescaped, and failures are raised as
# exceptions as well.
_SILENT = 4

# From this IR version on, weights need not be listed as inputs. Converting a listed weight would
# change the type of an input.
_LEAST_IR_VERSION = 4


def to_half(content: bytes, *, half_outputs: bool = False) -> bytes:
    """Returns a model that computes in half precision, which some devices run several times faster.

    Its inputs keep their types.

    Args:
        content: serialised ONNX.
        half_outputs: whether the outputs have half precision, too, so that only half as many bytes
            are copied from a device that computes in half precision anyway. Otherwise they keep
            their types.

    Raises:
        SetupError: if the model cannot be converted or run, a weight is out of the range of half
            precision, or the outputs of the two models differ, for example because an intermediate
            value is out of range.
    """
    model = _with_plain_inputs(parse_checked(content))
    _check_range(model.graph)
    converted = _converted(model, half_outputs=half_outputs)
    _check_outputs(content, converted)
    return converted


def _converted(model: ModelProto, *, half_outputs: bool) -> bytes:
    kept = [port.name for port in model.graph.input] if half_outputs else True
    try:
        half = convert_float_to_float16(model, keep_io_types=kept)
        _sort(half.graph)
        content: bytes = half.SerializeToString()
        onnx.checker.check_model(content)
    # The converter can fail on a model with parts that it has already converted.
    except (ValueError, onnx.checker.ValidationError) as error:
        raise SetupError(
            f"the model cannot be converted to half precision: {first_line(error)}",
            "give the float32 model, or set precision=f32",
        ) from None
    return content


def _with_plain_inputs(model: ModelProto) -> ModelProto:
    inputs = image_inputs(model)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _LEAST_IR_VERSION)
    return model


def _check_range(graph: GraphProto) -> None:
    for name, tensor in _tensors(graph):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size and not float(np.abs(values).max()) <= _LARGEST:
            raise SetupError(
                f"{name} has values out of the range of half precision, {_LARGEST:g}",
                "set precision=f32",
            )


def _tensors(graph: GraphProto) -> Iterable[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], attribute.t
        for inner in inner_graphs(node):
            yield from _tensors(inner)


def _sort(graph: GraphProto) -> None:
    """Sorts nodes after those whose outputs they read, since the converter appends its casts."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needed = {
        index: {makers[name] for name in _read_by(node) if name in makers}
        for index, node in enumerate(graph.node)
    }
    nodes = [graph.node[index] for index in TopologicalSorter(needed).static_order()]
    del graph.node[:]
    graph.node.extend(nodes)


def _read_by(node: NodeProto) -> Iterable[str]:
    yield from node.input
    # Inner graphs see the names of the outer one.
    for inner in inner_graphs(node):
        for other in inner.node:
            yield from _read_by(other)


def _check_outputs(content: bytes, converted: bytes) -> None:
    names, expected = _run(content)
    _, found = _run(converted)
    for name, wanted, got in zip(names, expected, found, strict=True):
        difference = float(np.abs(np.float32(wanted) - np.float32(got)).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise SetupError(
                f"in half precision, output {name} differs by {difference:.2g}", "set precision=f32"
            )


def _run(content: bytes) -> tuple[list[str], list[npt.NDArray[np.float32]]]:
    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        image = session.get_inputs()[0]
        shape = [
            size if isinstance(size, int) else usual
            for size, usual in zip(image.shape, _CHECKED_N3HW, strict=True)
        ]
        noise_N3HW = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        is_bytes = image.type == "tensor(uint8)"
        normalised_N3HW = noise_N3HW / BYTE_RANGE - MEAN_BYTE / BYTE_RANGE
        inputs_N3HW = noise_N3HW if is_bytes else _DTYPES[image.type](normalised_N3HW)
        names = [output.name for output in session.get_outputs()]
        return names, session.run(names, {image.name: inputs_N3HW})
    # The runtime's own exceptions have no common documented base class.
    except Exception as error:  # noqa: BLE001
        raise SetupError(f"ONNX Runtime cannot run the model: {first_line(error)}") from None
