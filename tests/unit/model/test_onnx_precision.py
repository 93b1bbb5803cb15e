"""The precision of an ONNX model is that of the layers with most of its weights."""

import numpy as np
import numpy.typing as npt
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distributed_pose.model.onnx_precision import is_quantised, main_precision, precision_of

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
IMAGE = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
MAPS = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)


def tensor(name: str, dtype: npt.DTypeLike, size: int = 48) -> TensorProto:
    return numpy_helper.from_array(np.ones((1, 3, 4, size // 12), dtype), name)


def scale(name: str, dtype: npt.DTypeLike = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.ones((), dtype), name)


def graph(nodes: list[NodeProto], *weights: TensorProto) -> GraphProto:
    return helper.make_graph(nodes, "g", [IMAGE], [MAPS], weights)


def made(nodes: list[NodeProto], *weights: TensorProto) -> ModelProto:
    return helper.make_model(graph(nodes, *weights), opset_imports=OPSETS)


def conv(weights: str, image: str = "x", kind: str = "Conv") -> NodeProto:
    return helper.make_node(kind, [image, weights], [f"{weights}.y"])


def dequantised(name: str, into: str) -> NodeProto:
    return helper.make_node("DequantizeLinear", [name, "scale"], [into])


@pytest.mark.parametrize(
    ("dtype", "precision"), [(np.float32, "f32"), (np.float16, "f16"), (np.float64, "f64")]
)
@pytest.mark.parametrize("fuses", [False, True])
def test_floats_compute_in_the_type_of_their_weights(
    dtype: npt.DTypeLike, precision: str, *, fuses: bool
) -> None:
    model = made([conv("w")], tensor("w", dtype))
    assert precision_of(model, fuses=fuses) == precision
    assert not is_quantised(model)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("ConvInteger", ["x", "w"]),
        ("MatMulInteger", ["x", "w"]),
        ("QLinearConv", ["x", "scale", "z", "w", "scale", "z", "scale", "z", "bias"]),
    ],
)
def test_operators_on_integers_are_int8(dtype: npt.DTypeLike, kind: str, inputs: list[str]) -> None:
    node = helper.make_node(kind, inputs, ["y"])
    model = made([node], tensor("w", dtype), scale("scale"), scale("z", np.uint8))
    assert precision_of(model, fuses=False) == precision_of(model, fuses=True) == "int8"
    assert is_quantised(model)


@pytest.mark.parametrize(
    ("image", "scale_type", "fuses", "precision"),
    [
        ("x.floats", np.float32, True, "int8"),
        ("x.floats", np.float32, False, "f32"),
        ("x.floats", np.float16, False, "f16"),
        # If the image of a layer is not an integer, its weights are only stored in fewer bits.
        ("x", np.float32, True, "f32"),
    ],
)
def test_dequantised_weights_count_as_int8_only_if_the_runtime_fuses_them(
    image: str, scale_type: npt.DTypeLike, *, fuses: bool, precision: str
) -> None:
    nodes = [dequantised("x", "x.floats"), dequantised("w", "w.floats"), conv("w.floats", image)]
    model = made(nodes, tensor("w", np.int8), scale("scale", scale_type))
    assert precision_of(model, fuses=fuses) == precision
    assert is_quantised(model)


def test_casts_and_transposes_between_weights_and_layer_are_followed() -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["w.cast"], saturate=0, to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["w.cast"], ["w.turned"]),
        conv("w.turned"),
    ]
    assert precision_of(made(nodes, tensor("w", np.float16)), fuses=False) == "f32"


def test_weights_in_constants_branches_and_functions_count() -> None:
    half = tensor("w", np.float16)
    constant = helper.make_node("Constant", [], ["w"], value=half)
    branch = helper.make_graph([constant, conv("w")], "branch", [], [])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    assert precision_of(made([choice]), fuses=False) == "f16"
    function = helper.make_function(
        "local", "Layer", ["x"], ["w.y"], [constant, conv("w")], OPSETS[:1]
    )
    call = helper.make_node("Layer", ["x"], ["y"], domain="local")
    model = helper.make_model(graph([call]), opset_imports=OPSETS, functions=[function])
    assert precision_of(model, fuses=False) == "f16"


@pytest.mark.parametrize(
    ("exact", "precision"), [(12, "f16"), (48, "f16"), (60, "mixed"), (480, "mixed"), (960, "f32")]
)
def test_the_precision_is_mixed_if_no_type_has_four_fifths_of_the_weights(
    exact: int, precision: str
) -> None:
    nodes = [conv("half"), conv("exact")]
    weights = tensor("half", np.float16, 192), tensor("exact", np.float32, exact)
    assert precision_of(made(nodes, *weights), fuses=False) == precision


def test_a_precision_that_cannot_be_determined_is_unknown() -> None:
    circle = [
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["a"]),
        conv("a"),
    ]
    nothing = [helper.make_node("Identity", ["x"], ["y"])]
    computed = [conv("x")]
    for nodes in (circle, nothing, computed, [helper.make_node("Conv", [], ["y"])]):
        assert precision_of(made(nodes), fuses=False) == "unknown"
    assert main_precision({}) == "unknown"
