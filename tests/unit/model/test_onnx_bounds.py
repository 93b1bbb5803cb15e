"""Models that take more time or memory than a pose network are refused before they are loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from distributed_pose import SetupError
from distributed_pose.model.onnx_bounds import check_bounds
from distributed_pose.records.images import InputSize
from tests.tiny_models import save_constant_model

GIGABYTE = 2**30


@pytest.fixture
def model(tmp_path: Path) -> onnx.ModelProto:
    return onnx.load(save_constant_model(tmp_path / "m.onnx"))


def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def extended(model: onnx.ModelProto, constants: dict[str, Any], *nodes: NodeProto) -> bytes:
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def test_a_network_is_within_the_bounds(model: onnx.ModelProto) -> None:
    check_bounds(extended(model, {}), "m")


def test_sizes_that_are_computed_from_the_inputs_shape_are_within_the_bounds(
    model: onnx.ModelProto,
) -> None:
    # Exporters write a resize to twice the size of a dynamic input in this way.
    constants = {
        "rows": [2, 3],
        "two": [2, 2],
        "images": [0, 1],
        "scales": np.array([], np.float32),
    }
    nodes = [
        node("Shape", ["data"], "shape"),
        node("Gather", ["shape", "rows"], "size"),
        node("Mul", ["size", "two"], "larger"),
        node("Gather", ["shape", "images"], "first"),
        node("Concat", ["first", "larger"], "sizes", axis=0),
        node("Resize", ["data", "", "scales", "sizes"], "resized"),
    ]
    check_bounds(extended(model, constants, *nodes), "m")


@pytest.mark.parametrize("kind", ["Loop", "Scan", "SequenceMap"])
def test_loops_in_any_part_of_a_model_are_refused(model: onnx.ModelProto, kind: str) -> None:
    body = helper.make_graph([node(kind, [], "a")], "body", [], [])
    branch = node("If", ["go"], "b", then_branch=body, else_branch=body)
    with pytest.raises(SetupError, match=f"^m has an operator {kind}, and nothing bounds"):
        check_bounds(extended(model, {"go": True}, branch), "m")


@pytest.mark.parametrize("is_cycle", [False, True])
def test_functions_that_call_each_other_are_counted_as_often_as_they_run(
    model: onnx.ModelProto, *, is_cycle: bool
) -> None:
    opset = [helper.make_opsetid("", 11), helper.make_opsetid("own", 1)]
    for level in range(40):
        called = f"F{(level - 1) % 40}" if level or is_cycle else "Identity"
        domain = "own" if called != "Identity" else ""
        inner = [node(called, ["a"], "c", domain=domain), node(called, ["c"], "b", domain=domain)]
        model.functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], inner, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(SetupError, match=r"^m has over 100,000 nodes"):
        check_bounds(extended(model, {}, node("F39", ["data"], "x", domain="own")), "m")


@pytest.mark.parametrize(
    ("kind", "constants"),
    [
        ("ConstantOfShape", {"shape": [GIGABYTE]}),
        ("Expand", {"one": np.array([1], np.float32), "shape": [GIGABYTE]}),
        ("Range", {"a": np.float32(0), "b": np.float32(1e9), "c": np.float32(1)}),
        ("Pad", {"one": np.array([1], np.float32), "pads": [GIGABYTE, 0]}),
        ("Tile", {"one": np.array([1], np.float32), "times": [GIGABYTE]}),
        ("MatMul", {"a": np.ones((20_000, 1), np.float32), "b": np.ones((1, 20_000), np.float32)}),
        ("Add", {"a": np.ones((20_000, 1), np.float32), "b": np.ones((1, 20_000), np.float32)}),
    ],
)
def test_constants_that_grow_to_gigabytes_are_refused(
    model: onnx.ModelProto, kind: str, constants: dict[str, Any]
) -> None:
    with pytest.raises(SetupError, match=r"^m computes [\d,]{13,} bytes of constants, and has"):
        check_bounds(extended(model, constants, node(kind, [*constants], "x")), "m")


@pytest.mark.parametrize("kind", ["Expand", "Tile"])
def test_constants_whose_size_is_only_known_at_run_time_are_refused(
    model: onnx.ModelProto, kind: str
) -> None:
    steps = [
        node("Exp", ["a"], "large"),
        node("Cast", ["large"], "size", to=TensorProto.INT64),
        node(kind, ["a", "size"], "x"),
    ]
    with pytest.raises(SetupError, match=f"^m computes a constant by {kind} whose size"):
        check_bounds(extended(model, {"a": np.array([20], np.float32)}, *steps), "m")


def test_sparse_weights_count_as_dense(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    sparse = helper.make_sparse_tensor(values, indices, [GIGABYTE])
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(SetupError, match=r"^m computes 4,294,967,\d+ bytes of constants"):
        check_bounds(extended(model, {}), "m")


def test_values_that_are_needed_at_the_same_time_are_added_up(model: onnx.ModelProto) -> None:
    names = [f"large{number}" for number in range(16)]
    steps = [node("Resize", ["data", "", "scales"], name) for name in names]
    scales = {"scales": np.array([1, 1, 4, 4], np.float32)}
    one_by_one = [
        step
        for step, name in zip(steps, names, strict=True)
        for step in (step, node("ReduceMean", [name], f"{name}.mean"))
    ]
    check_bounds(
        extended(onnx.ModelProto.FromString(extended(model, {})), scales, *one_by_one), "m"
    )
    with pytest.raises(SetupError, match=r"^m needs [\d,]+ bytes for the values of one image"):
        check_bounds(extended(model, scales, *steps, node("Sum", names, "sum")), "m")


@pytest.mark.parametrize("size", [InputSize(96, 128), InputSize(1472, 2560)])
def test_open_dimensions_have_the_size_of_the_inputs_and_the_limit_grows_with_it(
    model: onnx.ModelProto, size: InputSize
) -> None:
    def enlarged(factor: float) -> bytes:
        names = [f"large{number}" for number in range(16)]
        steps = [node("Resize", ["data", "", "scales"], name) for name in names]
        scales = {"scales": np.array([1, 1, factor, factor], np.float32)}
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        return extended(copy, scales, *steps, node("Sum", names, "sum"))

    # The sixteen enlarged inputs and their sum take up to 768 MB for an input of 368x640.
    factor = 4.0 if size.width > 640 else 20.0
    with pytest.raises(SetupError, match=f"for an input of {size}"):
        check_bounds(enlarged(factor), "m", size)
    check_bounds(enlarged(factor / 2), "m", size)


def test_the_limit_applies_to_one_image_of_a_fixed_batch(tmp_path: Path) -> None:
    check_bounds(save_constant_model(tmp_path / "m.onnx", batch=512).read_bytes(), "m")


def test_weights_may_be_widened_from_fewer_bits(model: onnx.ModelProto) -> None:
    weights = {"packed": np.ones((64, 64, 3, 3), np.int8)}
    steps = [node("Cast", ["packed"], "wide", to=TensorProto.DOUBLE)]
    check_bounds(extended(model, weights, *steps), "m")
