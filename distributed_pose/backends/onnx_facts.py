"""What a backend must know of an ONNX model before a runtime loads it."""

from collections import Counter

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from distributed_pose.errors import SetupError
from distributed_pose.nvidia import EngineShapes

_PRECISIONS = {TensorProto.FLOAT: "f32", TensorProto.FLOAT16: "f16"}

# The key under which an engine in ONNX, whose weights cannot be seen, says what it computes in.
_METADATA = "precision"


def parsed(content: bytes) -> ModelProto:
    """Returns serialised ONNX as a model.

    Raises:
        SetupError: if it is none.
    """
    try:
        return onnx.load_model_from_string(content)
    # What a parser of protocol buffers raises is an affair of its implementation.
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().partition("\n")[0]
        raise SetupError(f"ONNX Runtime cannot load the model: {reason}") from None


def precision_of(model: ModelProto) -> str:
    """Returns the type of most convolutions' weights, or what an engine says of itself."""
    if is_engine(model):
        said = {entry.key: str(entry.value) for entry in model.metadata_props}
        return said.get(_METADATA, "unknown")
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            types[node.output[0]] = node.attribute[0].t.data_type
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    found = Counter(types.get(node.input[1], TensorProto.FLOAT) for node in convolutions)
    most = found.most_common(1)[0][0] if found else TensorProto.FLOAT
    return _PRECISIONS.get(most) or str(TensorProto.DataType.Name(most)).lower()


def fixed_shapes(model: ModelProto, batch_size: int) -> EngineShapes | None:
    """Returns the input shapes of a model; None for engines and where the size is not fixed.

    Args:
        model: with one image input.
        batch_size: most images in a batch, if the model takes any number.
    """
    inputs = _image_inputs(model)
    sizes = [d.dim_value for port in inputs for d in port.type.tensor_type.shape.dim]
    if is_engine(model) or len(inputs) != 1 or len(sizes) != 4 or not all(sizes[2:]):
        return None
    return EngineShapes(inputs[0].name, sizes[0] or 1, sizes[0] or batch_size, *sizes[2:])


def is_engine(model: ModelProto) -> bool:
    """Returns whether a model is what a provider has compiled, in ONNX as a wrapping."""
    return any(node.op_type == "EPContext" for node in model.graph.node)


def _image_inputs(model: ModelProto) -> list[ValueInfoProto]:
    # In files of the oldest format the weights are listed as inputs, too.
    weights = {tensor.name for tensor in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in weights]
