"""The one reader of ONNX: what a model takes and gives.

Nothing is run, and no runtime is loaded.
"""

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from distributed_pose.errors import SetupError, shown
from distributed_pose.nvidia import EngineShapes
from distributed_pose.records import ModelPort

# Characters of a name in a model, or of a reason, that a message shows.
_MAX_SHOWN = 200


def parse(content: bytes, name: str = "the model") -> ModelProto:
    """Returns serialised ONNX as a model.

    Args:
        content: of the file.
        name: of the model in the message.

    Raises:
        SetupError: if it is none.
    """
    try:
        model: ModelProto = onnx.load_model_from_string(content)
    # What a parser of protocol buffers raises is an affair of its implementation.
    except Exception as error:  # noqa: BLE001
        raise _invalid(name, str(error)) from None
    if not model.HasField("graph"):
        raise _invalid(name, "it holds no graph")
    if not _is_text(model):
        raise _invalid(name, "a name in it is not UTF-8")
    return model


def parse_checked(content: bytes) -> ModelProto:
    """Returns serialised ONNX as a model that follows the standard.

    Raises:
        SetupError: if it does not.
    """
    model = parse(content)
    try:
        onnx.checker.check_model(content)
    except (ValueError, onnx.checker.ValidationError) as error:
        raise _invalid("the model", str(error)) from None
    return model


def image_input(model: ModelProto) -> ValueInfoProto:
    """Returns the only input of a model.

    Raises:
        SetupError: if it has none or several; lists them.
    """
    inputs = _inputs(model)
    if len(inputs) == 1:
        return inputs[0]
    found = ", ".join(f"{shown(port.name)} {_shape(port)}" for port in inputs) or "none"
    raise SetupError(
        f"the model has {len(inputs)} inputs, not one image: {found}", "see model.path"
    )


def input_ports(content: bytes, name: str = "the model") -> list[ModelPort]:
    """Returns the inputs of serialised ONNX that are no weights.

    Raises:
        SetupError: as `parse`.
    """
    return [_model_port(port) for port in _inputs(parse(content, name))]


def ports(content: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns inputs and outputs of serialised ONNX for a card: name, shape and dtype of each.

    Raises:
        SetupError: as `parse`.
    """
    model = parse(content)
    described = [
        [{"name": port.name, "shape": _shape(port), "dtype": _dtype(port)} for port in side]
        for side in (_inputs(model), model.graph.output)
    ]
    return described[0], described[1]


def fixed_shapes(model: ModelProto, batch_size: int) -> EngineShapes | None:
    """Returns the input shapes of a model; None for engines and where the size is not fixed.

    Args:
        model: with one image input.
        batch_size: most images in a batch, if the model takes any number.
    """
    sizes = [n if isinstance(n, int) else 0 for port in _inputs(model) for n in _shape(port)]
    if is_engine(model) or len(sizes) != 4 or not all(sizes[2:]):
        return None
    name = image_input(model).name
    return EngineShapes(name, sizes[0] or 1, sizes[0] or batch_size, *sizes[2:])


def is_engine(model: ModelProto) -> bool:
    """Returns whether a model is what a provider has compiled, in ONNX as a wrapping."""
    return any(node.op_type == "EPContext" for node in model.graph.node)


def shortened(text: str) -> str:
    """Returns as much of a text as a message shows."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def inner_graphs(node: NodeProto) -> Iterable[GraphProto]:
    """Yields the graphs in a node's attributes, such as the branches of an If."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def nodes(model: ModelProto) -> Iterable[NodeProto]:
    """Yields all nodes of a model, those of inner graphs and of its functions too."""
    yield from messages(model, NodeProto)


def messages(message: Any, kind: type) -> Iterable[Any]:
    """Yields what is of a kind in a message, at any depth and in whatever field."""
    if isinstance(message, kind):
        yield message
    # A tensor holds no others, and listing its fields would copy its values.
    if isinstance(message, TensorProto):
        return
    for field, value in message.ListFields():
        if field.message_type:
            for child in (value,) if hasattr(value, "ListFields") else value:
                yield from messages(child, kind)


def _inputs(model: ModelProto) -> list[ValueInfoProto]:
    # In files of the oldest format the weights are listed as inputs, too.
    weights = {tensor.name for tensor in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in weights]


def _model_port(port: ValueInfoProto) -> ModelPort:
    # Exporters write open dimensions with a name, without one, or as -1.
    shape = (n if isinstance(n, int) and n >= 0 else None for n in _shape(port))
    return ModelPort(port.name, tuple(shape), _dtype(port))


def _shape(port: ValueInfoProto) -> list[int | str]:
    dims = port.type.tensor_type.shape.dim
    return [int(d.dim_value) if d.HasField("dim_value") else str(d.dim_param) for d in dims]


def _dtype(port: ValueInfoProto) -> str:
    kind = port.type.tensor_type.elem_type
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else "none"
    except KeyError:
        return f"of unknown type {kind}"


def _is_text(message: Any) -> bool:
    """Returns whether all strings of a message are text; others are given out as bytes."""
    if isinstance(message, TensorProto):
        return isinstance(message.name, str)
    for field, value in message.ListFields():
        is_single = hasattr(value, "ListFields") or isinstance(value, str | bytes)
        values = (value,) if is_single else value
        if field.message_type and not all(_is_text(child) for child in values):
            return False
        if field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in values):
            return False
    return True


def _invalid(name: str, reason: str) -> SetupError:
    line = shown(reason.strip().partition("\n")[0], 200)
    return SetupError(f"{name} is no valid ONNX: {line}", "see model.path")
