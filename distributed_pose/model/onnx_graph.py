"""Reads the inputs, outputs and nodes of ONNX models; no other module parses ONNX.

Nothing is run, and no runtime is loaded.
"""

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from distributed_pose.errors import SetupError, first_line, shown
from distributed_pose.records.models import ModelPort

# The number of characters of a name in a model, or of a reason, that a message shows.
_MAX_SHOWN = 200

_NO_TEXT = "a name in it is not UTF-8"

# The limit counts nodes, attributes, descriptions of values and so on. A model of 5,000 nodes has
# 100,000 of them.
_MAX_MESSAGES = 500_000


def parse(content: bytes, name: str = "the model") -> ModelProto:
    """Returns serialised ONNX as a model.

    Args:
        content: content of the ONNX file.
        name: name of the model in messages.

    Raises:
        SetupError: if the content is not ONNX, or has too many parts.
    """
    try:
        model: ModelProto = onnx.load_model_from_string(content)
    # Each implementation of protocol buffers raises its own exceptions.
    except Exception as error:  # noqa: BLE001
        raise invalid(name, first_line(error)) from None
    if not model.HasField("graph"):
        raise invalid(name, "it holds no graph")
    _check_messages(model, name)
    return model


def parse_checked(content: bytes) -> ModelProto:
    """Returns serialised ONNX as a model, after checking that it follows the standard.

    Raises:
        SetupError: if the model does not follow the standard.
    """
    model = parse(content)
    try:
        onnx.checker.check_model(content)
    except (ValueError, onnx.checker.ValidationError) as error:
        raise invalid("the model", first_line(error)) from None
    return model


def invalid(name: str, reason: str) -> SetupError:
    """Returns the error about content that is not ONNX.

    Args:
        name: name of the model.
        reason: one line that says why.
    """
    return SetupError(f"{name} is not valid ONNX: {shown(reason, _MAX_SHOWN)}", "check model.path")


def image_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Returns the inputs of a model that are not weights.

    Files of the oldest format list the weights as inputs, too.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in weights]


def image_input(model: ModelProto) -> ValueInfoProto:
    """Returns the only input of a model.

    Raises:
        SetupError: if the model has no input or several; the message lists them.
    """
    inputs = image_inputs(model)
    if len(inputs) == 1:
        return inputs[0]
    found = ", ".join(f"{shown(port.name)} {_shape(port)}" for port in inputs) or "none"
    raise SetupError(
        f"the model has {len(inputs)} inputs, not one image: {found}", "check model.path"
    )


def input_ports(content: bytes, name: str = "the model") -> list[ModelPort]:
    """Returns the inputs of serialised ONNX, without the weights among them.

    Args:
        content: content of the ONNX file.
        name: name of the model in messages.

    Raises:
        SetupError: if `parse` refuses the content.
    """
    return [_model_port(port) for port in image_inputs(parse(content, name))]


def output_ports(content: bytes) -> list[ModelPort]:
    """Returns the outputs of serialised ONNX.

    Raises:
        SetupError: if `parse` refuses the content.
    """
    return [_model_port(port) for port in parse(content).graph.output]


def ports(content: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the inputs and the outputs of serialised ONNX for a card.

    Each is described by its name, shape and dtype.

    Raises:
        SetupError: if `parse` refuses the content.
    """
    model = parse(content)
    described = [
        [{"name": port.name, "shape": _shape(port), "dtype": _dtype(port)} for port in side]
        for side in (image_inputs(model), model.graph.output)
    ]
    return described[0], described[1]


def is_engine(model: ModelProto) -> bool:
    """Returns whether a model is ONNX that wraps an engine which a provider has compiled."""
    return any(node.op_type == "EPContext" for node in model.graph.node)


def shortened(text: str) -> str:
    """Returns the start of a text, as much of it as a message shows."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def inner_graphs(node: NodeProto) -> Iterable[GraphProto]:
    """Yields the graphs in a node's attributes, such as the branches of an If."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def nodes(model: ModelProto) -> Iterable[NodeProto]:
    """Yields all nodes of a model, including those of inner graphs and of its functions."""
    yield from messages(model, NodeProto)


def messages(message: Any, kind: type) -> Iterable[Any]:
    """Yields all messages of a kind in a protobuf message, at any depth and in any field.

    Args:
        message: protobuf message to search; it is yielded, too, if it is of the kind.
        kind: class of the messages to yield.
    """
    pending = [message]
    while pending:
        current = pending.pop()
        if isinstance(current, kind):
            yield current
        # A tensor is not searched: listing its fields would copy its values.
        if isinstance(current, TensorProto):
            continue
        children: list[Any] = []
        for field, value in current.ListFields():
            if field.message_type:
                children += (value,) if hasattr(value, "ListFields") else value
        pending += reversed(children)


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


def _check_messages(model: ModelProto, name: str) -> None:
    """Checks that a model does not have too many parts, and that all its strings are UTF-8."""
    pending: list[Any] = [model]
    count = 0
    while pending:
        message = pending.pop()
        count += 1
        if count + len(pending) > _MAX_MESSAGES:
            raise SetupError(
                f"{name} has over {_MAX_MESSAGES:,} nodes, attributes, values and the like",
                "check model.path",
            )
        # Listing a tensor's fields would copy its values.
        if isinstance(message, TensorProto):
            if isinstance(message.name, bytes):
                raise invalid(name, _NO_TEXT)
            continue
        for field, value in message.ListFields():
            is_single = hasattr(value, "ListFields") or isinstance(value, str | bytes)
            values = (value,) if is_single else value
            if field.message_type:
                pending += values
            # The library returns a string that is not UTF-8 as bytes.
            elif field.type == field.TYPE_STRING and any(isinstance(v, bytes) for v in values):
                raise invalid(name, _NO_TEXT)
