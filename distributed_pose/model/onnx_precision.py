"""Finds the precision in which the layers of an ONNX model compute."""

from collections import Counter
from collections.abc import Iterable, Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner

from distributed_pose.model.onnx_graph import is_engine, messages, nodes

# The metadata key under which an engine in ONNX states its precision, since its weights are hidden.
PRECISION_KEY = "precision"

MIXED, UNKNOWN = "mixed", "unknown"

# Quantised models keep their depthwise layers and their last ones in floats. These have 1 % of the
# weights of Lightweight OpenPose, and up to 15 % of the weights of networks of a few layers.
_MAIN_SHARE = 0.8

_PRECISIONS: Mapping[int, str] = {
    TensorProto.FLOAT: "f32",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "f64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}

# Operators that pass weights on, in another type, shape or order.
_PASSING = {
    "Cast",
    "DequantizeLinear",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_MAX_PASSING = 8


def is_quantised(model: ModelProto) -> bool:
    """Returns whether a model has quantised operators: integers in them stand for real numbers."""
    return any(
        node.op_type.startswith(("Q", "Dequantize", "DynamicQuantize")) or "Integer" in node.op_type
        for node in nodes(model)
    )


def precision_of(model: ModelProto, *, fuses: bool) -> str:
    """Returns the precision in which the layers with weights compute.

    This is the type of the layers that hold four fifths of the weights. It is `mixed` if no type
    has so many, and `unknown` if no layer is found. An engine states its own precision.

    Args:
        model: model as the runtime runs it, or the user's own model.
        fuses: whether the runtime still fuses a float layer and the dequantisation in front of it
            into a layer on integers, as TensorRT does. ONNX Runtime runs a model that it has
            optimised without further changes.
    """
    if is_engine(model):
        said = {entry.key: str(entry.value) for entry in model.metadata_props}
        return said.get(PRECISION_KEY, UNKNOWN)
    if model.functions:
        model = inliner.inline_local_functions(model)
    return main_precision(_Layers(model).weights(fuses=fuses))


def main_precision(weights: Mapping[str, int]) -> str:
    """Returns the precision of four fifths of the weights, `mixed`, or `unknown` without weights.

    Weights are counted rather than layers, because half of the layers may be depthwise, with almost
    none of the work.

    Args:
        weights: number of weights by the precision in which their layers compute.
    """
    total = sum(weights.values())
    if not total:
        return UNKNOWN
    name, most = max(weights.items(), key=lambda item: item[1])
    return name if most >= _MAIN_SHARE * total else MIXED


class _Layers:
    """The layers of a model, with the weights that each reads."""

    def __init__(self, model: ModelProto) -> None:
        graphs: list[GraphProto] = list(messages(model, GraphProto))
        self._nodes = [node for graph in graphs for node in graph.node]
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._tensors = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
        for node in self._nodes:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.HasField("t"):
                    self._tensors.update(dict.fromkeys(node.output, attribute.t))

    def weights(self, *, fuses: bool) -> Counter[str]:
        """Returns the number of weights by the precision in which their layers compute."""
        found: Counter[str] = Counter()
        for node in self._nodes:
            if any(kind in node.op_type for kind in ("Conv", "MatMul", "Gemm")):
                # The largest constant that a layer reads is its weight tensor.
                on_integers = fuses and self._reads_dequantised(node)
                traced = [self._traced(name, fused=on_integers) for name in node.input]
                size, kind = max(traced, key=lambda weights: weights[0], default=(0, 0))
                found[_precision(kind)] += size
        return found

    def _traced(self, name: str, *, fused: bool) -> tuple[int, int]:
        """Returns size and type of a constant input of a layer; size 0 if it is not a constant."""
        kind = None
        for _ in range(_MAX_PASSING):
            if name in self._tensors:
                tensor = self._tensors[name]
                return _size(tensor.dims), tensor.data_type if kind is None else kind
            node = self._makers.get(name)
            if node is None or node.op_type not in _PASSING or not node.input:
                break
            if kind is None and not (fused and node.op_type == "DequantizeLinear"):
                kind = self._type_made(node)
            name = node.input[0]
        return 0, 0

    def _reads_dequantised(self, node: NodeProto) -> bool:
        maker = self._makers.get(node.input[0]) if node.input else None
        return maker is not None and maker.op_type == "DequantizeLinear"

    def _type_made(self, node: NodeProto) -> int | None:
        """Returns the type in which a node passes weights on; None if it keeps their type."""
        values = {attribute.name: int(attribute.i) for attribute in node.attribute}
        if node.op_type == "Cast":
            return values.get("to")
        if node.op_type == "DequantizeLinear":
            scales = [self._tensors[name] for name in node.input[1:2] if name in self._tensors]
            kind = scales[0].data_type if scales else TensorProto.FLOAT
            return values.get("output_dtype") or int(kind)
        return int(TensorProto.INT8) if node.op_type == "QuantizeLinear" else None


def _size(dims: Iterable[int]) -> int:
    size = 1
    for n in dims:
        size *= max(n, 0)
    return size


def _precision(kind: int) -> str:
    if kind not in TensorProto.DataType.values():
        return UNKNOWN
    return _PRECISIONS.get(kind) or str(TensorProto.DataType.Name(kind)).lower()
