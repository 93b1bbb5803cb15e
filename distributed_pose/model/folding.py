"""Adds the normalisation of images to a model, for profiles that feed it bytes."""

from collections.abc import Iterable

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from distributed_pose.errors import SetupError
from distributed_pose.model.onnx_graph import image_input, inner_graphs, parse_checked
from distributed_pose.records.images import BYTE_RANGE, MEAN_BYTE

_PREFIX = "folded_normalisation"

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


def fold_normalisation(content: bytes) -> bytes:
    """Returns a model that takes bytes `x` where the given one takes floats `(x - 128) / 256`.

    The input keeps its name, its shape and its dynamic axes. The weights stay as they are: the
    zero padding of the first convolution corresponds to bytes of 128, and no bias can express that,
    because a bias is added with and without padding.

    Args:
        content: serialised ONNX of opset 7 or newer, with one floating-point input, which may have
            half precision.

    Raises:
        SetupError: if the content is not such a model.
    """
    model = parse_checked(content)
    image = image_input(model)
    _check_type(image)
    kind = image.type.tensor_type.elem_type
    steps = _normalisation(image.name, kind, _unused_prefix(model))
    _rename_uses(model.graph, image.name, steps[-1].output[0])
    image.type.tensor_type.elem_type = TensorProto.UINT8
    nodes = [*steps, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    folded: bytes = model.SerializeToString()
    parse_checked(folded)
    return folded


def _check_type(image: ValueInfoProto) -> None:
    kind = image.type.tensor_type.elem_type
    if kind not in _FLOATS:
        raise SetupError(
            f"a profile on bytes needs a model with a float32 input, and {image.name} is "
            f"{str(TensorProto.DataType.Name(kind)).lower()}",
            "set profile=modelzoo, or export the model without its normalisation",
        )


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
        for inner in inner_graphs(node):
            yield from _names(inner)


def _rename_uses(graph: GraphProto, old: str, new: str) -> None:
    """Renames a value wherever nodes use it, also in inner graphs, which see the outer names."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        for inner in inner_graphs(node):
            _rename_uses(inner, old, new)


def _normalisation(image: str, kind: int, prefix: str) -> list[NodeProto]:
    """Returns the nodes that convert bytes to normalised floats.

    Each step is exact in float32, float16 and bf16.

    Args:
        image: name of the image input.
        kind: ONNX type of the normalised floats.
        prefix: prefix of the names of nodes and values, which no other name in the model has.
    """
    floats, centred, normalised = (f"{prefix}.{step}" for step in ("cast", "sub", "mul"))
    steps = [
        helper.make_node("Cast", [image], [floats], floats, to=TensorProto.FLOAT),
        _constant(f"{prefix}.mean", float(MEAN_BYTE)),
        helper.make_node("Sub", [floats, f"{prefix}.mean"], [centred], centred),
        _constant(f"{prefix}.scale", 1 / BYTE_RANGE),
        helper.make_node("Mul", [centred, f"{prefix}.scale"], [normalised], normalised),
    ]
    if kind != TensorProto.FLOAT:
        given = f"{prefix}.given"
        steps.append(helper.make_node("Cast", [normalised], [given], given, to=kind))
    return steps


def _constant(name: str, value: float) -> NodeProto:
    # The constant is a node, because files of the oldest format must list an initialiser as an
    # input, too.
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [], [value])
    return helper.make_node("Constant", [], [name], name, value=tensor)
