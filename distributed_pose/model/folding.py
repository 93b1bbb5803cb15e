"""Normalisation inside the model, for profiles that feed it bytes."""

from collections.abc import Iterable

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from distributed_pose.errors import SetupError

_MEAN = 128.0
_SCALE = 1 / 256

_PREFIX = "folded_normalisation"


def fold_normalisation(content: bytes) -> bytes:
    """Returns a model that takes bytes `x` where the given one takes float32 `(x - 128) / 256`.

    The input keeps its name, its shape and its dynamic axes. The weights stay as they are: the
    zero padding of the first convolution stands for 128 in bytes, and no bias can say so, because
    it is added where there is padding and where there is none.

    Args:
        content: serialised ONNX with one float32 input, of opset 7 or newer.

    Raises:
        SetupError: if it is no such model.
    """
    model: ModelProto = onnx.load_model_from_string(_checked(content))
    image = _image_input(model.graph)
    steps = _normalisation(image.name, _unused_prefix(model))
    _rename_uses(model.graph, image.name, steps[-1].output[0])
    image.type.tensor_type.elem_type = TensorProto.UINT8
    nodes = [*steps, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _checked(model.SerializeToString())


def _image_input(graph: GraphProto) -> ValueInfoProto:
    # In files of the oldest format the weights are listed as inputs, too.
    weights = {tensor.name for tensor in graph.initializer}
    inputs: list[ValueInfoProto] = [port for port in graph.input if port.name not in weights]
    if len(inputs) == 1 and inputs[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        return inputs[0]
    found = ", ".join(f"{port.name} ({_type_name(port)})" for port in inputs) or "none"
    raise SetupError(
        f"a profile on bytes needs a model with one float32 input, and its inputs are: {found}",
        "set profile=modelzoo, or export the model without its normalisation",
    )


def _type_name(port: ValueInfoProto) -> str:
    return str(TensorProto.DataType.Name(port.type.tensor_type.elem_type)).lower()


def _unused_prefix(model: ModelProto) -> str:
    names = set(_names(model.graph))
    prefix = _PREFIX
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def _names(graph: GraphProto) -> Iterable[str]:
    for port in (*graph.input, *graph.initializer):
        yield port.name
    for node in graph.node:
        yield node.name
        yield from (*node.input, *node.output)
        for inner in _inner_graphs(node):
            yield from _names(inner)


def _inner_graphs(node: NodeProto) -> Iterable[GraphProto]:
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _rename_uses(graph: GraphProto, old: str, new: str) -> None:
    """Renames a value wherever it is used; inner graphs see the names of the outer one."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        for inner in _inner_graphs(node):
            _rename_uses(inner, old, new)


def _normalisation(image: str, prefix: str) -> list[NodeProto]:
    """Returns the nodes from bytes to normalised floats, each step exact in float32 and bf16."""
    floats, centred, normalised = (f"{prefix}.{step}" for step in ("cast", "sub", "mul"))
    return [
        helper.make_node("Cast", [image], [floats], floats, to=TensorProto.FLOAT),
        _constant(f"{prefix}.mean", _MEAN),
        helper.make_node("Sub", [floats, f"{prefix}.mean"], [centred], centred),
        _constant(f"{prefix}.scale", _SCALE),
        helper.make_node("Mul", [centred, f"{prefix}.scale"], [normalised], normalised),
    ]


def _constant(name: str, value: float) -> NodeProto:
    # A node, because an initialiser must be an input as well in files of the oldest format.
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [], [value])
    return helper.make_node("Constant", [], [name], name, value=tensor)


def _checked(content: bytes) -> bytes:
    try:
        onnx.checker.check_model(content)
    except (ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SetupError(f"the model is no valid ONNX: {reason}", "see model.path") from None
    return content
