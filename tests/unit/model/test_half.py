"""A model in half precision stays close to float32, or the conversion is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from distributed_pose import SetupError
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.model.half import to_half
from tests.checkpoints import exported
from tests.tiny_models import save_constant_model


@pytest.fixture(scope="module")
def demo() -> bytes:
    return exported(WEIGHTS)


@pytest.fixture
def tiny(tmp_path: Path) -> ModelProto:
    return onnx.load(save_constant_model(tmp_path / "tiny.onnx", value=0.5))


def run(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))


def in_bytes(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def weight_types(content: bytes) -> set[int]:
    return {tensor.data_type for tensor in onnx.load_model_from_string(content).graph.initializer}


@pytest.mark.parametrize("on_bytes", [False, True])
def test_the_demo_network_differs_a_little_and_keeps_its_inputs_and_outputs(
    demo: bytes, *, on_bytes: bool
) -> None:
    exact = fold_normalisation(demo) if on_bytes else demo
    half = to_half(exact)
    onnx.checker.check_model(half, full_check=True)
    assert weight_types(half) == {TensorProto.FLOAT16}
    images = in_bytes((2, 3, 96, 128))
    found, wanted = (
        run(content, images if on_bytes else (images / 256 - 0.5).astype(np.float32))
        for content in (half, exact)
    )
    assert list(found) == list(wanted)
    for name, output in found.items():
        assert output.dtype == np.float32
        assert 0 < np.abs(output - wanted[name]).max() < 0.01


def test_outputs_in_half_precision_are_the_same_values_rounded_to_it(demo: bytes) -> None:
    images = (in_bytes((2, 3, 96, 128)) / 256 - 0.5).astype(np.float32)
    wide, narrow = (run(to_half(demo, half_outputs=half), images) for half in (False, True))
    assert list(wide) == list(narrow)
    for name, output in narrow.items():
        assert output.dtype == np.float16
        # Processors without half-precision kernels compute in float32.
        np.testing.assert_array_equal(output, wide[name].astype(np.float16))


def test_a_published_network_is_converted(shared: Path) -> None:
    content = (shared / "models" / "human_pose_estimation_0001.onnx").read_bytes()
    half = to_half(content)
    onnx.checker.check_model(half, full_check=True)
    assert len(half) < 0.51 * len(content)


def test_fixed_sizes_of_the_model_stay_fixed(tiny: ModelProto) -> None:
    dimensions = tiny.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, (2, 3, 8, 16), strict=True):
        dimension.dim_value = size
    half = onnx.load_model_from_string(to_half(tiny.SerializeToString()))
    dimensions = half.graph.input[0].type.tensor_type.shape.dim
    assert [dimension.dim_value for dimension in dimensions] == [2, 3, 8, 16]


def test_weights_that_are_listed_as_inputs_are_converted_too(tiny: ModelProto) -> None:
    tiny.ir_version = 3
    tiny.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in tiny.graph.initializer
    )
    half = to_half(tiny.SerializeToString())
    assert [port.name for port in onnx.load_model_from_string(half).graph.input] == ["data"]
    assert weight_types(half) == {TensorProto.FLOAT16}


def test_inputs_and_outputs_in_half_precision_stay_in_half_precision(tiny: ModelProto) -> None:
    given = convert_float_to_float16(tiny, keep_io_types=False)
    again = onnx.load_model_from_string(to_half(given.SerializeToString()))
    types = {port.type.tensor_type.elem_type for port in (*again.graph.input, *again.graph.output)}
    assert types == {TensorProto.FLOAT16}


def test_a_model_that_the_converter_cannot_convert_again_is_refused(demo: bytes) -> None:
    with pytest.raises(SetupError, match=r"cannot be converted to half .*precision=f32"):
        to_half(to_half(demo))


@pytest.mark.parametrize("value", [70000.0, -70000.0, np.inf, np.nan])
def test_a_weight_out_of_range_is_named(tiny: ModelProto, value: float) -> None:
    bias = next(tensor for tensor in tiny.graph.initializer if tensor.name == "pafs.bias")
    values = numpy_helper.to_array(bias).copy()
    values[3] = value
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    with pytest.raises(SetupError, match=r"pafs\.bias has values out of the range .*precision=f32"):
        to_half(tiny.SerializeToString())


def test_a_constant_out_of_range_is_named(tiny: ModelProto) -> None:
    large = numpy_helper.from_array(np.array(1e6, np.float32), "large")
    tiny.graph.node.insert(0, helper.make_node("Constant", [], ["large"], value=large))
    with pytest.raises(SetupError, match="large has values out of the range"):
        to_half(tiny.SerializeToString())


def test_a_network_whose_intermediate_values_are_out_of_range_is_refused(
    tiny: ModelProto,
) -> None:
    # Multiplies by 2 ** 30 and divides again, which is exact in float32.
    for name, factor in (("up", 2.0**15), ("down", 2.0**-15)):
        tensor = numpy_helper.from_array(np.array(factor, np.float32), name)
        tiny.graph.initializer.append(tensor)
    convolution = next(node for node in tiny.graph.node if node.output[0] == "pafs")
    convolution.output[0] = "plain"
    chain = ["plain", "a", "b", "c", "pafs"]
    steps = zip(chain, chain[1:], ("up", "up", "down", "down"), strict=False)
    for source, target, tensor_name in steps:
        tiny.graph.node.append(helper.make_node("Mul", [source, tensor_name], [target]))
    with pytest.raises(SetupError, match=r"output pafs differs by (inf|nan)"):
        to_half(tiny.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_content_that_is_not_a_model_is_refused(content: bytes) -> None:
    with pytest.raises(SetupError, match="not valid ONNX"):
        to_half(content)
