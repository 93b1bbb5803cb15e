"""Estimates the memory that an ONNX model needs, from its graph, before any runtime loads it.

While a runtime loads a model, it computes all values that do not depend on the input, and nothing
can stop it. So the sizes of all values are inferred first, for one image.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    inliner,
)

from distributed_pose.errors import SetupError, first_line, shown
from distributed_pose.model.onnx_graph import (
    image_input,
    inner_graphs,
    invalid,
    is_engine,
    messages,
    nodes,
    parse,
)
from distributed_pose.records.images import InputSize

# For an input of this size, Lightweight OpenPose has at most 15 MB of values at a time, and
# OpenPose on VGG-19 has 180 MB. Larger inputs may take more in proportion to their pixels.
_USUAL_INPUT = InputSize(368, 640)
_MAX_LIVE_BYTES = 2**29

# The limits of the values that are computed from weights: these may be widened from 4 bits to
# float32, and moved once more.
_MAX_COMPUTED_BYTES = 2**26
_MAX_COMPUTED_PER_BYTE = 16

# Exporters write models of some thousand nodes.
_MAX_NODES = 100_000

# Operators whose number of rounds, or of elements, is only known when the model is run.
_ENDLESS = ("Loop", "Scan", "SequenceMap")

# Operators whose number of output elements depends on the values of an input.
_GROWING = frozenset(
    {
        *("BlackmanWindow", "CenterCropPad", "ConstantOfShape", "Expand", "HammingWindow"),
        *("HannWindow", "MaxUnpool", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample"),
    }
)

# Operators of the standard that do not enlarge their input, so that the size of their results may
# be unknown.
_KEEPING = frozenset(
    {
        *("Cast", "Compress", "DequantizeLinear", "Flatten", "Identity", "NonZero"),
        *("QuantizeLinear", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Transpose"),
        "Unsqueeze",
    }
)
_STANDARD = ("", "ai.onnx")

# The largest fixed batch by which the memory of a model is divided.
_MAX_BATCH = 1024

_MAX_ITEM_BYTES = 16

# Values of tensors up to this size are kept for shape inference, because they may be shapes.
_MAX_SHAPE_VALUES = 1024

_HINT = "model.path must be a pose network of convolutions on one image"


def check_bounds(content: bytes, name: str, size: InputSize = _USUAL_INPUT) -> None:
    """Checks that a model takes no more time and memory than a pose network does.

    Sizes are inferred through the standard's operators. Values after an operator of another domain
    are not checked, and neither are engines.

    Args:
        content: serialised ONNX that holds its weights.
        name: name of the model in messages.
        size: size of the inputs, for the dimensions that the model leaves open.

    Raises:
        SetupError: if the content is not valid ONNX, or if the model has loops, or has more nodes
            or larger values than a pose network, or computes a constant of unknown size.
    """
    model = parse(content, name)
    if is_engine(model):
        return
    _check_nodes(model, name)
    computed = sum(
        _bytes_of(tensor.values.data_type, tensor.dims)
        for tensor in messages(model, SparseTensorProto)
    )
    model = _with_shapes(model, name, (1, 3, *size))
    sizes = _sizes(model)
    computed += _computed_bytes(model, sizes, name)
    if computed > _MAX_COMPUTED_BYTES + _MAX_COMPUTED_PER_BYTE * len(content):
        raise SetupError(
            f"{name} computes {computed:,} bytes of constants, and has {len(content):,} itself",
            _HINT,
        )
    live = _most_live_bytes(model, sizes)
    limit = int(_MAX_LIVE_BYTES * max(1.0, math.prod(size) / math.prod(_USUAL_INPUT)))
    if live > limit:
        raise SetupError(
            f"{name} needs {live:,} bytes for the values of one image, over the limit of {limit:,} "
            f"for an input of {size}",
            _HINT,
        )


def _check_nodes(model: ModelProto, name: str) -> None:
    listed = list(islice(nodes(model), _MAX_NODES + 1))
    if loops := sorted({node.op_type for node in listed}.intersection(_ENDLESS)):
        raise SetupError(
            f"{name} has an operator {loops[0]}, and nothing bounds how often it repeats", _HINT
        )
    if len(listed) > _MAX_NODES or _num_nodes(model) > _MAX_NODES:
        raise SetupError(f"{name} has over {_MAX_NODES:,} nodes", _HINT)


def _num_nodes(model: ModelProto) -> float:
    """Returns the number of nodes with all functions inlined; infinite if one is recursive."""
    bodies = {
        (function.domain, function.name): Counter(
            (node.domain, node.op_type) for node in messages(function, NodeProto)
        )
        for function in model.functions
    }
    sizes: dict[tuple[str, str], int] = {}

    def size(calls: Mapping[tuple[str, str], int]) -> int:
        return sum(times * (1 + sizes.get(callee, 0)) for callee, times in calls.items())

    # Functions are counted after those that they call, so the first ones call no other.
    while ready := [key for key, calls in bodies.items() if not calls.keys() & bodies.keys()]:
        sizes |= {key: size(bodies.pop(key)) for key in ready}
    if bodies:
        return math.inf
    return size(Counter((n.domain, n.op_type) for n in messages(model.graph, NodeProto)))


def _with_shapes(model: ModelProto, name: str, input_shape: tuple[int, ...]) -> ModelProto:
    """Returns a model without weights or functions, whose values have the shapes of one image."""
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        return onnx.shape_inference.infer_shapes(_bare(model, input_shape), data_prop=True)
    except SetupError:
        raise
    # The C++ code raises more exceptions than it documents.
    except Exception as error:  # noqa: BLE001
        raise invalid(name, first_line(error)) from None


def _bare(model: ModelProto, input_shape: tuple[int, ...]) -> ModelProto:
    """Returns a model without large weights that declares the shape of its input, and no other.

    Args:
        model: the model.
        input_shape: sizes of the input's dimensions, for those that the model leaves open.
    """
    for tensor in messages(model, TensorProto):
        if math.prod(tensor.dims) > _MAX_SHAPE_VALUES:
            for values in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(values)
    # The shapes that a file declares may be wrong; they are inferred from the operators instead.
    for graph in messages(model, GraphProto):
        graph.ClearField("value_info")
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")
    shape = image_input(model).type.tensor_type.shape
    if len(shape.dim) == len(input_shape):
        for dim, size in zip(shape.dim, input_shape, strict=True):
            dim.dim_value = dim.dim_value if dim.dim_value > 0 else size
    return model


def _sizes(model: ModelProto) -> dict[str, int]:
    """Returns the sizes in bytes of the values whose shape is known, by name."""
    sizes: dict[str, int] = {}
    for info in messages(model, ValueInfoProto):
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            size = _bytes_of(kind.elem_type, [dim.dim_value for dim in kind.shape.dim])
            # Branches may use the same name for different values.
            sizes[info.name] = max(size, sizes.get(info.name, 0))
    return sizes


def _computed_bytes(model: ModelProto, sizes: Mapping[str, int], name: str) -> int:
    """Returns the total size in bytes of the computed values that do not depend on the input.

    Args:
        model: model with inferred shapes.
        sizes: sizes in bytes of the values whose shape is known, by name.
        name: name of the model in messages.

    Raises:
        SetupError: if the size of such a value is unknown.
    """
    changing = {image_input(model).name}
    computed = 0
    for node in messages(model, NodeProto):
        if not changing.isdisjoint(node.input) or any(inner_graphs(node)):
            changing.update(node.output)
        elif node.op_type != "Constant":
            computed += sum(sizes.get(value, 0) for value in node.output)
            is_unknown = any(value and value not in sizes for value in node.output)
            if is_unknown and (node.op_type in _GROWING or not _keeps_size(node)):
                raise SetupError(
                    f"{name} computes a constant by {shown(node.op_type)} whose size is not known "
                    "before it is run",
                    "simplify the model where it was made, so that it holds its constants",
                )
    return computed


def _keeps_size(node: NodeProto) -> bool:
    return node.domain not in _STANDARD or node.op_type in _KEEPING


def _most_live_bytes(model: ModelProto, sizes: Mapping[str, int]) -> int:
    """Returns the largest number of bytes of values needed at the same time, per image."""
    image = image_input(model)
    steps = list(messages(model, NodeProto))
    last_use = {value: step for step, node in enumerate(steps) for value in node.input}
    ends: dict[int, list[str]] = {}
    for value, step in last_use.items():
        ends.setdefault(step, []).append(value)
    kept = {output.name for output in model.graph.output}
    live = {image.name: sizes.get(image.name, 0)}
    total = most = live[image.name]
    for step, node in enumerate(steps):
        made = {value: sizes.get(value, 0) for value in node.output}
        live |= made
        total += sum(made.values())
        most = max(most, total)
        gone = {*ends.get(step, ()), *(value for value in made if value not in last_use)} - kept
        total -= sum(live.pop(value, 0) for value in gone)
    batch_size = image.type.tensor_type.shape.dim[0].dim_value if sizes.get(image.name) else 1
    return most // max(1, min(batch_size, _MAX_BATCH))


def _bytes_of(kind: int, dims: Iterable[int]) -> int:
    values = math.prod(max(size, 0) for size in dims)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        return values * _MAX_ITEM_BYTES
    # Texts are objects in NumPy, whose size is that of a pointer.
    return values * (_MAX_ITEM_BYTES if dtype.hasobject else int(dtype.itemsize))
