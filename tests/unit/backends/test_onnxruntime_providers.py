"""What can be proved of providers without their devices."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from distributed_pose import SetupError
from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.onnxruntime import BoundSession, OnnxRuntimeBackend
from distributed_pose.backends.providers import (
    PROVIDERS,
    cached_tensorrt_options,
    cann_options,
    cuda_options,
    require,
)
from distributed_pose.backends.registry import open_backend
from distributed_pose.model.half import to_half
from distributed_pose.model.onnx_graph import fixed_shapes, is_engine, parse
from distributed_pose.model.onnx_precision import precision_of
from distributed_pose.model.tensorrt import labelled_engine
from distributed_pose.nvidia import EngineShapes, cuda_device_name, tensorrt_options
from distributed_pose.records import Geometry
from tests.tiny_models import save_constant_model

SHAPES = EngineShapes("data", 1, 8, 368, 640)
DEVICES = ("cuda", "tensorrt", "cann")


def engine() -> ModelProto:
    """Returns what a provider leaves of a compiled model."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in {"data": 3, "heatmaps": 19, "pafs": 38}.items()
    ]
    node = helper.make_node(
        "EPContext", ["data"], ["heatmaps", "pafs"], domain="com.microsoft", ep_cache_context="x"
    )
    return helper.make_model(helper.make_graph([node], "engine", ports[:1], ports[1:]))


def batch(count: int, height: int = 32, width: int = 48) -> InputBatch:
    inputs = np.random.default_rng(count).uniform(-0.5, 0.5, (count, 3, height, width))
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs.astype(np.float32))


@pytest.fixture
def random_model(tmp_path: Path) -> bytes:
    """A model of one layer with random weights, for any batch and size."""
    model = onnx.load(save_constant_model(tmp_path / "random.onnx", value=0.5))
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            values = generator.standard_normal(tuple(tensor.dims)).astype(np.float32) / 14
            tensor.raw_data = values.tobytes()
    return bytes(model.SerializeToString())


def test_cuda_is_told_to_compute_float32_as_float32() -> None:
    assert cuda_options(1) == {
        "device_id": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": "0",
    }


def test_tensorrt_is_told_of_half_precision_only_for_a_model_of_it_and_where_there_is_a_flag() -> (
    None
):
    def told(*, half: bool, major: int) -> dict[str, str]:
        return tensorrt_options(0, half=half, major=major, shapes=None)

    assert told(half=True, major=10) == {"device_id": "0", "trt_fp16_enable": "1"}
    assert told(half=False, major=10) == told(half=True, major=11) == {"device_id": "0"}


def test_tensorrt_is_told_which_shapes_will_come_and_where_its_caches_are() -> None:
    assert cached_tensorrt_options(2, half=True, major=10, shapes=SHAPES, cache="/cache") == {
        "device_id": "2",
        "trt_fp16_enable": "1",
        "trt_profile_min_shapes": "data:1x3x368x640",
        "trt_profile_opt_shapes": "data:8x3x368x640",
        "trt_profile_max_shapes": "data:8x3x368x640",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/cache",
    }


@pytest.mark.parametrize(
    ("half", "mode"), [(True, "force_fp16"), (False, "must_keep_origin_dtype")]
)
def test_cann_is_told_its_precision(*, half: bool, mode: str) -> None:
    assert cann_options(3, half=half) == {
        "device_id": "3",
        "precision_mode": mode,
        "enable_cann_graph": "1",
        "dump_om_model": "0",
    }


@pytest.mark.parametrize("variant", DEVICES)
def test_a_missing_provider_is_named_with_those_there_are_and_its_package(variant: str) -> None:
    provider = PROVIDERS[variant]
    with pytest.raises(SetupError) as caught:
        require(variant, ["AzureExecutionProvider", "CPUExecutionProvider"])
    text = str(caught.value)
    assert f"no {provider.name}, it has AzureExecutionProvider, CPUExecutionProvider" in text
    assert provider.package in text
    assert require(variant, [provider.name]) is provider


@pytest.mark.parametrize("variant", DEVICES)
def test_a_backend_whose_provider_is_missing_does_not_run_on_another(
    variant: str, random_model: bytes
) -> None:
    if PROVIDERS[variant].name in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {PROVIDERS[variant].name}")
    with pytest.raises(SetupError, match=f"has no {PROVIDERS[variant].name}"):
        open_backend(f"onnxruntime:{variant}", random_model, BackendOptions())


def test_no_variant_means_the_cpu(random_model: bytes) -> None:
    named = OnnxRuntimeBackend(random_model, BackendOptions(variant="cpu")).infer(batch(2))
    for one, other in zip(
        OnnxRuntimeBackend(random_model, BackendOptions()).infer(batch(2)), named, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_precision_that_the_model_does_not_have_is_refused(random_model: bytes) -> None:
    with pytest.raises(SetupError, match="compiled model has precision f32, not f16"):
        OnnxRuntimeBackend(random_model, BackendOptions(precision="f16"))


def test_the_precision_is_that_of_the_weights(random_model: bytes) -> None:
    assert precision_of(parse(random_model), fuses=True) == "f32"
    assert precision_of(parse(to_half(random_model)), fuses=True) == "f16"


def test_weights_in_constant_nodes_count_too(random_model: bytes) -> None:
    model = parse(to_half(random_model))
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith("weight")]
    for tensor in weights:
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    assert len(weights) == 2
    assert precision_of(model, fuses=True) == "f16"


def test_an_engine_tells_its_precision_by_its_label() -> None:
    labelled = parse(labelled_engine(engine().SerializeToString(), "f16"))
    assert is_engine(labelled)
    assert precision_of(labelled, fuses=True) == "f16"
    assert precision_of(engine(), fuses=True) == "unknown"


def test_what_is_no_onnx_is_refused() -> None:
    with pytest.raises(SetupError, match="no valid ONNX"):
        parse(b"no model")


def sized(content: bytes, sizes: tuple[int, int, int]) -> ModelProto:
    model = parse(content)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip((dimensions[0], *dimensions[2:]), sizes, strict=True):
        if size:
            dimension.dim_value = size
    return model


def test_shapes_are_known_where_the_input_size_is_fixed(random_model: bytes) -> None:
    assert fixed_shapes(sized(random_model, (0, 0, 0)), 8) is None
    assert fixed_shapes(sized(random_model, (4, 0, 640)), 8) is None
    assert fixed_shapes(sized(random_model, (0, 368, 640)), 8) == SHAPES
    fixed = EngineShapes("data", 4, 4, 368, 640)
    assert fixed_shapes(sized(random_model, (4, 368, 640)), 8) == fixed
    assert fixed_shapes(engine(), 8) is None


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_model_of_a_fixed_batch_answers_any_number(random_model: bytes, count: int) -> None:
    fixed = sized(random_model, (2, 0, 0)).SerializeToString()
    found = OnnxRuntimeBackend(fixed, BackendOptions()).infer(batch(count))
    expected = OnnxRuntimeBackend(random_model, BackendOptions()).infer(batch(count))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


class TestBoundSession:
    """On the CPU, where buffers are bound in the same way."""

    @pytest.fixture
    def session(self, random_model: bytes) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(random_model, providers=["CPUExecutionProvider"])

    @pytest.fixture
    def bound(self, session: onnxruntime.InferenceSession) -> BoundSession:
        return BoundSession(session, "data", ("heatmaps", "pafs"), ("cpu", 0))

    def test_answers_as_the_session_does_whatever_shapes_come(
        self, session: onnxruntime.InferenceSession, bound: BoundSession
    ) -> None:
        for count, height in ((2, 32), (2, 32), (1, 32), (2, 32), (3, 64), (3, 64)):
            inputs = batch(count, height).inputs_N3HW + np.float32(height)
            expected = session.run(["heatmaps", "pafs"], {"data": inputs})
            for one, other in zip(bound(inputs), expected, strict=True):
                np.testing.assert_array_equal(one, other)

    def test_reads_every_batch_and_keeps_earlier_answers_as_they_were(
        self, bound: BoundSession
    ) -> None:
        inputs = batch(2).inputs_N3HW
        first = bound(inputs)[0]
        copy = first.copy()
        second = bound(-inputs)[0]
        np.testing.assert_array_equal(first, copy)
        assert np.abs(second - first).max() > 0.1

    def test_leaves_the_callers_arrays_alone(self, bound: BoundSession) -> None:
        inputs = batch(2).inputs_N3HW
        inputs.flags.writeable = False
        bound(inputs)
        bound(-inputs)
        np.testing.assert_array_equal(inputs, batch(2).inputs_N3HW)

    def test_goes_on_after_a_batch_that_fails(self, bound: BoundSession) -> None:
        expected = bound(batch(2).inputs_N3HW)[1]
        with pytest.raises(Exception, match="Conv"):
            bound(batch(2, 4, 4).inputs_N3HW)
        np.testing.assert_array_equal(bound(batch(2).inputs_N3HW)[1], expected)


def test_a_device_that_the_driver_does_not_know_has_a_general_name() -> None:
    assert cuda_device_name(10**6) == "NVIDIA GPU"
