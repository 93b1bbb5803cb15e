"""A model with folded normalisation gives the same outputs on bytes as on normalised floats."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from distributed_pose import SetupError
from distributed_pose.model.folding import fold_normalisation

SHARED_NETWORKS = ("human_pose_estimation_0001", "tf_pose_mobilenet_v2_small")


def port(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


IMAGE = port("data", "n", 3, "h", "w")
OUTPUT = port("maps", "n", 2, "h", "w")
KERNEL = numpy_helper.from_array(
    np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32), "kernel"
)
# The zero padding means grey, so bytes that are not centred would differ at the border.
CONV = helper.make_node("Conv", ["data", "kernel"], ["maps"], "conv", pads=[1, 1, 1, 1])


def model(
    nodes: tuple[NodeProto, ...] = (CONV,),
    inputs: tuple[ValueInfoProto, ...] = (IMAGE,),
    opset: int = 11,
    ir_version: int = 7,
) -> bytes:
    graph = helper.make_graph(list(nodes), "padded", list(inputs), [OUTPUT], [KERNEL])
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    return bytes(made.SerializeToString())


def outputs(content: bytes, inputs_N3HW: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, {"data": inputs_N3HW})]


def assert_folded_to_the_same(content: bytes, size: tuple[int, int] = (8, 16)) -> ModelProto:
    folded = fold_normalisation(content)
    bytes_N3HW = np.random.default_rng(1).integers(0, 256, (2, 3, *size), np.uint8)
    floats_N3HW = (bytes_N3HW.astype(np.float32) - 128) / 256
    found, expected = outputs(folded, bytes_N3HW), outputs(content, floats_N3HW)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    return onnx.load_model_from_string(folded)


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 4), (11, 6), (13, 7), (17, 8), (21, 10)])
def test_a_model_gives_the_same_on_bytes_as_on_normalised_floats(
    opset: int, ir_version: int
) -> None:
    assert_folded_to_the_same(model(opset=opset, ir_version=ir_version))


@pytest.mark.parametrize("network", SHARED_NETWORKS)
def test_real_networks_give_the_same_on_bytes(shared: Path, network: str) -> None:
    content = (shared / "models" / f"{network}.onnx").read_bytes()
    assert_folded_to_the_same(content, (64, 96))


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), (2, 3, 8, 16), ("n", 3, 8, 16)])
def test_the_input_keeps_its_name_and_its_dimensions(shape: tuple[int | str, ...]) -> None:
    folded = assert_folded_to_the_same(model(inputs=(port("data", *shape),)))
    assert list(folded.graph.input) == [port("data", *shape, dtype=TensorProto.UINT8)]
    assert list(folded.graph.output) == [OUTPUT]


def test_names_that_the_model_uses_are_not_used_again() -> None:
    taken = "folded_normalisation.cast"
    nodes = (
        helper.make_node("Identity", ["data"], [taken], "folded_normalisation_.mul"),
        helper.make_node("Conv", [taken, "kernel"], ["maps"], pads=[1, 1, 1, 1]),
    )
    folded = assert_folded_to_the_same(model(nodes))
    names = [name for node in folded.graph.node for name in node.output]
    assert len(set(names)) == len(names)


def test_a_branch_that_uses_the_input_gets_the_normalised_one() -> None:
    branches = {
        name: helper.make_graph([CONV], name, [], [OUTPUT])
        for name in ("then_branch", "else_branch")
    }
    true = helper.make_tensor("true", TensorProto.BOOL, [], [1])
    nodes = (
        helper.make_node("Constant", [], ["condition"], value=true),
        helper.make_node("If", ["condition"], ["maps"], **branches),
    )
    assert_folded_to_the_same(model(nodes))


def test_weights_that_are_listed_as_inputs_do_not_count_as_inputs() -> None:
    weight = port("kernel", 2, 3, 3, 3)
    assert_folded_to_the_same(model(inputs=(IMAGE, weight), opset=9, ir_version=3))


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64)]
)
def test_an_input_of_another_float_type_keeps_that_type_after_the_normalisation(
    kind: int, dtype: type
) -> None:
    nodes = (helper.make_node("Cast", ["data"], ["floats"], to=TensorProto.FLOAT), CONV_FLOATS)
    content = model(nodes, (port("data", "n", 3, "h", "w", dtype=kind),))
    bytes_N3HW = np.random.default_rng(1).integers(0, 256, (2, 3, 8, 16), np.uint8)
    floats_N3HW = (bytes_N3HW.astype(np.float32) - 128) / 256
    found = outputs(fold_normalisation(content), bytes_N3HW)
    for one, other in zip(found, outputs(content, floats_N3HW.astype(dtype)), strict=True):
        np.testing.assert_array_equal(one, other)


CAST = helper.make_node("Cast", ["data"], ["floats"], to=TensorProto.FLOAT)
CONV_FLOATS = helper.make_node("Conv", ["floats", "kernel"], ["maps"], pads=[1, 1, 1, 1])
BYTES = port("data", "n", 3, "h", "w", dtype=TensorProto.UINT8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model((CAST, CONV_FLOATS), (BYTES,)), "with a float32 input, and data is uint8"),
        (
            model(inputs=(IMAGE, port("size", 2))),
            r"2 inputs, .* data \['n', 3, .* size \[2\]",
        ),
        (
            model((helper.make_node("Constant", [], ["maps"], value=KERNEL),), ()),
            "0 inputs",
        ),
        (model((CONV_FLOATS,)), "not valid ONNX: .*floats"),
        (model()[:-50], "not valid ONNX"),
        (b"no model", "not valid ONNX"),
        (b"", "not valid ONNX"),
    ],
)
def test_a_model_without_one_float_image_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        fold_normalisation(content)
