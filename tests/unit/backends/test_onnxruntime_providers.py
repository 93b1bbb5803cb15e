"""Options, names and precisions of ONNX Runtime's providers, tested without their devices."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from distributed_pose import SetupError
from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.onnxruntime import OnnxRuntimeBackend
from distributed_pose.backends.onnxruntime_cann import DeviceRun
from distributed_pose.backends.providers import (
    PROVIDERS,
    cann_options,
    cuda_options,
    require,
    tensorrt_options,
)
from distributed_pose.backends.registry import open_backend
from distributed_pose.devices.nvidia import cuda_device_facts, cuda_device_name
from distributed_pose.model.half import to_half
from distributed_pose.model.onnx_graph import is_engine, parse
from distributed_pose.model.onnx_precision import precision_of
from distributed_pose.model.tensorrt import labelled_engine
from distributed_pose.records.images import Geometry
from tests.tiny_models import random_model as random_model_in

DEVICES = ("cuda", "tensorrt", "cann")


def engine() -> ModelProto:
    """Returns ONNX that contains an engine, as a provider writes it."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in {"data": 3, "heatmaps": 19, "pafs": 38}.items()
    ]
    node = helper.make_node(
        "EPContext", ["data"], ["heatmaps", "pafs"], domain="com.microsoft", ep_cache_context="x"
    )
    graph = helper.make_graph([node], "engine", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def batch(count: int, height: int = 32, width: int = 48) -> InputBatch:
    inputs = np.random.default_rng(count).uniform(-0.5, 0.5, (count, 3, height, width))
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs.astype(np.float32))


@pytest.fixture
def random_model(tmp_path: Path) -> bytes:
    return random_model_in(tmp_path / "random.onnx")


def test_cuda_computes_float32_as_float32_and_searches_no_kernels_within_a_run() -> None:
    assert cuda_options(1, stream=7) == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "user_compute_stream": "7",
    }


def test_an_engine_runs_on_the_stream_that_it_is_given() -> None:
    assert tensorrt_options(2, stream=7) == {"device_id": "2", "user_compute_stream": "7"}


@pytest.mark.parametrize(
    ("half", "mode"), [(True, "force_fp16"), (False, "must_keep_origin_dtype")]
)
def test_cann_gets_the_option_of_its_precision(*, half: bool, mode: str) -> None:
    assert cann_options(3, half=half) == {
        "device_id": "3",
        "precision_mode": mode,
        "enable_cann_graph": "1",
        "dump_om_model": "0",
    }


def test_a_run_in_device_memory_answers_as_a_plain_run_and_times_its_steps(
    random_model: bytes,
) -> None:
    plain = onnxruntime.InferenceSession(random_model)
    name, outputs = plain.get_inputs()[0].name, [node.name for node in plain.get_outputs()]
    run = DeviceRun(onnxruntime.InferenceSession(random_model), name, outputs, ("cpu", 0))
    answers = {}
    for count in (2, 1, 3, 2):
        inputs = batch(count).inputs_N3HW
        answers[count] = run(inputs)
        for found, wanted in zip(answers[count], plain.run(outputs, {name: inputs}), strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert run.times_ns.min() > 0
    # Later runs do not change earlier answers.
    wanted = plain.run(outputs, {name: batch(1).inputs_N3HW})
    np.testing.assert_array_equal(answers[1][0], wanted[0])


@pytest.mark.parametrize("variant", DEVICES)
def test_a_missing_provider_is_named_with_the_available_ones_and_its_package(variant: str) -> None:
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


def test_a_name_without_a_variant_means_the_cpu(random_model: bytes) -> None:
    named = OnnxRuntimeBackend(random_model, BackendOptions(variant="cpu")).infer(batch(2))
    for one, other in zip(
        OnnxRuntimeBackend(random_model, BackendOptions()).infer(batch(2)), named, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_precision_other_than_the_models_is_refused(random_model: bytes) -> None:
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


def test_an_engine_states_its_precision_in_its_metadata() -> None:
    labelled = parse(labelled_engine(engine().SerializeToString(), "f16"))
    assert is_engine(labelled)
    assert precision_of(labelled, fuses=True) == "f16"
    assert precision_of(engine(), fuses=True) == "unknown"


def test_content_that_is_not_onnx_is_refused() -> None:
    with pytest.raises(SetupError, match="not valid ONNX"):
        parse(b"no model")


def sized(content: bytes, sizes: tuple[int, int, int]) -> ModelProto:
    model = parse(content)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip((dimensions[0], *dimensions[2:]), sizes, strict=True):
        if size:
            dimension.dim_value = size
    return model


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_model_of_a_fixed_batch_answers_any_number(random_model: bytes, count: int) -> None:
    fixed = sized(random_model, (2, 0, 0)).SerializeToString()
    found = OnnxRuntimeBackend(fixed, BackendOptions()).infer(batch(count))
    expected = OnnxRuntimeBackend(random_model, BackendOptions()).infer(batch(count))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_device_unknown_to_the_driver_has_a_generic_name() -> None:
    assert cuda_device_name(10**6) == "NVIDIA GPU"
    assert cuda_device_facts(10**6).startswith("NVIDIA GPU")
