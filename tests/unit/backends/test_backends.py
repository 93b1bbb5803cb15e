"""Every backend keeps the contract of the protocol."""

import json
import math
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from distributed_pose import ConfigError, ExecutionError, SetupError, load_config
from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    InputBatch,
    NetworkOutput,
    check_maps,
)
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.backends.registry import (
    BACKENDS,
    candidates,
    open_backend,
    resolve_backend,
    resolve_precision,
)
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.model.network import LightweightOpenPose
from distributed_pose.model.torch_program import export_program
from distributed_pose.recordings.recording import LAYOUT
from distributed_pose.records.images import Geometry
from distributed_pose.records.models import ModelPort
from tests.requirements import skip_without_bf16
from tests.tiny_models import save_constant_model

RUNTIMES = ("onnxruntime:cpu", "openvino")

# These backends run on every machine; the others have separate tests.
HERE = [name for name, entry in BACKENDS.items() if entry.runs_on("cpu")]


def model(order: tuple[str, str] = ("heatmaps", "pafs")) -> bytes:
    """Returns a network of one strided layer with random weights and outputs in the given order."""
    generator = np.random.default_rng(0)
    channels = {"heatmaps": 19, "pafs": 38}
    weights = [
        numpy_helper.from_array(
            generator.standard_normal((n, 3, 8, 8)).astype(np.float32) / 14, f"{name}.weight"
        )
        for name, n in channels.items()
    ]
    nodes = [helper.make_node("Conv", ["data", f"{n}.weight"], [n], strides=[8, 8]) for n in order]
    sizes = {"data": 3} | {name: channels[name] for name in order}
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", c, "h", "w"])
        for name, c in sizes.items()
    ]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], weights)
    opset = [helper.make_opsetid("", 11)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=7)
    return bytes(made.SerializeToString())


TRUTH = json.dumps({"annotations": []}).encode()

RECORDING = {"folder": "nowhere", "names": {}, "missing": [], "precision": "f32"}


@cache
def content_of(name: str) -> bytes:
    """Returns the artifact that a CPU backend loads."""
    if BACKENDS[name].replays:
        return json.dumps({**RECORDING, "layout": asdict(LAYOUT)}).encode()
    if not BACKENDS[name].runs_model:
        return TRUTH
    if name != "torch:cpu":
        return model()
    torch.manual_seed(0)
    return export_program(LightweightOpenPose().eval(), on_bytes=False)


def in_bytes(batch: InputBatch) -> InputBatch:
    inputs = (batch.inputs_N3HW * 256 + 128).astype(np.uint8)
    return InputBatch(batch.image_ids, batch.geometries, inputs)


def batch(count: int, height: int = 32, width: int = 48) -> InputBatch:
    inputs = np.random.default_rng(count).uniform(-0.5, 0.5, (count, 3, height, width))
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs.astype(np.float32))


def opened(name: str, precision: str = "f32") -> Backend:
    return open_backend(name, content_of(name), BackendOptions(precision, batch_size=4))


@pytest.mark.parametrize("name", HERE)
class TestEveryBackend:
    def test_answers_any_batch_and_size_with_maps_of_a_stride_of_eight(self, name: str) -> None:
        backend = opened(name)
        for count, height, width in ((4, 32, 48), (1, 32, 48), (2, 8, 8), (3, 40, 64)):
            maps = check_maps(
                backend.infer(batch(count, height, width)), batch(count, height, width), coco_body()
            )
            assert maps.heatmaps_NKHW.shape == (count, 19, height // 8, width // 8)
            assert maps.pafs_NPHW.shape == (count, 38, height // 8, width // 8)
            assert maps.heatmaps_NKHW.dtype == maps.pafs_NPHW.dtype == np.float32

    def test_keeps_earlier_answers_unchanged(self, name: str) -> None:
        backend = opened(name)
        first = backend.infer(batch(2)).heatmaps_NKHW
        copy = first.copy()
        backend.infer(InputBatch((0, 1), batch(2).geometries, -batch(2).inputs_N3HW))
        np.testing.assert_array_equal(first, copy)

    def test_reports_its_precision_and_device(self, name: str) -> None:
        backend = opened(name)
        assert backend.precision == "f32"
        assert backend.description

    def test_can_be_closed_twice_and_refuses_batches_afterwards(self, name: str) -> None:
        backend = opened(name)
        backend.close()
        backend.close()
        with pytest.raises(SetupError, match="closed"):
            backend.infer(batch(1))


@pytest.mark.parametrize("name", RUNTIMES)
class TestEveryRuntime:
    def test_distinguishes_outputs_in_any_order(self, name: str) -> None:
        turned = open_backend(name, model(("pafs", "heatmaps")), BackendOptions("f32"))
        for one, other in zip(opened(name).infer(batch(2)), turned.infer(batch(2)), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_refuses_a_model_with_other_outputs_and_lists_them(
        self, name: str, tmp_path: Path
    ) -> None:
        content = save_constant_model(tmp_path / "other.onnx", heatmaps=20).read_bytes()
        with pytest.raises(SetupError, match=r"no output of 19 channels.*heatmaps.*20.*pafs.*38"):
            open_backend(name, content, BackendOptions("f32"))

    def test_fills_batches_for_a_model_of_one_batch_size(self, name: str) -> None:
        fixed = onnx.load_model_from_string(model())
        for port in (*fixed.graph.input, *fixed.graph.output):
            port.type.tensor_type.shape.dim[0].dim_value = 2
        backend = open_backend(name, fixed.SerializeToString(), BackendOptions("f32"))
        for count in (1, 2, 3, 4):
            found, expected = backend.infer(batch(count)), opened(name).infer(batch(count))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)

    def test_refuses_a_size_that_the_model_does_not_take(self, name: str) -> None:
        fixed = onnx.load_model_from_string(model())
        fixed.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 40
        backend = open_backend(name, fixed.SerializeToString(), BackendOptions("f32"))
        with pytest.raises(SetupError, match=r"the batch is \[2, 3, 32, 48\]"):
            backend.infer(batch(2))

    def test_takes_bytes_if_the_model_normalises_by_itself(self, name: str) -> None:
        given = in_bytes(batch(2))
        floats = (given.inputs_N3HW.astype(np.float32) - np.float32(128)) / np.float32(256)
        folded = open_backend(name, fold_normalisation(model()), BackendOptions("f32"))
        expected = opened(name).infer(InputBatch(given.image_ids, given.geometries, floats))
        for one, other in zip(folded.infer(given), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_refuses_inputs_of_another_type_than_the_models(self, name: str) -> None:
        folded = open_backend(name, fold_normalisation(model()), BackendOptions("f32"))
        with pytest.raises(SetupError, match="input data is uint8, the profile's float32"):
            folded.infer(batch(1))
        with pytest.raises(SetupError, match="input data is float32, the profile's uint8"):
            opened(name).infer(in_bytes(batch(1)))

    @pytest.mark.parametrize("content", [b"", b"no model", model()[:-50]])
    def test_refuses_content_that_is_not_a_model(self, name: str, content: bytes) -> None:
        with pytest.raises(SetupError, match="cannot load the model"):
            open_backend(name, content, BackendOptions("f32"))

    def test_answers_each_image_as_if_it_were_alone(self, name: str) -> None:
        backend, whole = opened(name), batch(3)
        together = backend.infer(whole)
        for index in range(3):
            alone = backend.infer(
                InputBatch((index,), whole.geometries[:1], whole.inputs_N3HW[index : index + 1])
            )
            for one, other in zip(alone, together, strict=True):
                np.testing.assert_allclose(one[0], other[index], atol=1e-5)


PRECISIONS = [(name, precision) for name in HERE for precision in BACKENDS[name].precisions]


@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_a_backend_has_the_requested_precision_or_reports_that_it_cannot(
    name: str, precision: str
) -> None:
    refusal = ""
    try:
        assert opened(name, precision).precision == precision
    except SetupError as error:
        refusal = str(error)
    expected = f"no native {precision}|int8|(computed in|has precision) f32, not {precision}"
    assert not refusal or (precision != "f32" and re.search(expected, refusal))


@pytest.mark.parametrize("name", HERE)
def test_the_backend_chooses_the_precision_if_none_is_requested(name: str) -> None:
    assert opened(name, "auto").precision in BACKENDS[name].precisions


def test_runtimes_agree() -> None:
    first, second = (opened(name).infer(batch(3)) for name in RUNTIMES)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_bf16_is_reported_and_differs_a_little() -> None:
    skip_without_bf16()
    backend = opened("openvino", "bf16")
    exact, rounded = (b.infer(batch(2)).pafs_NPHW for b in (opened("openvino"), backend))
    assert backend.precision == "bf16"
    assert 0 < np.abs(exact - rounded).max() < 0.05


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("auto", "cpu", ("openvino", "onnxruntime:cpu", "torch:cpu")),
        ("auto", "cuda", ("onnxruntime:tensorrt", "torch:cuda", "onnxruntime:cuda")),
        ("auto", "npu", ("ascend", "ascend-ais", "onnxruntime:cann")),
        ("onnxruntime", "cpu", ("onnxruntime:cpu",)),
        ("onnxruntime", "cuda", ("onnxruntime:tensorrt", "onnxruntime:cuda")),
        ("onnxruntime", "npu", ("onnxruntime:cann",)),
        ("onnxruntime:cuda", "cuda", ("onnxruntime:cuda",)),
        ("torch", "cpu", ("torch:cpu",)),
        ("torch", "cuda", ("torch:cuda",)),
        ("oracle", "npu", ("oracle",)),
        ("simulated:t4", "cuda", ("simulated:t4",)),
    ],
)
def test_a_configured_name_stands_for_backends_of_its_kind_of_device_best_first(
    name: str, kind: str, expected: tuple[str, ...]
) -> None:
    assert candidates(name, kind) == expected
    assert resolve_backend(name, kind, "auto") == expected[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("openvino", "npu"), ("ascend", "cpu"), ("torch", "npu"), ("onnxruntime:cuda", "cpu")],
)
def test_a_backend_on_another_kind_of_device_is_a_config_error(name: str, kind: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"backend {name} does not run .*{kind}.*{kind}\.backend"
    ):
        resolve_backend(name, kind, "auto")


@pytest.mark.parametrize(
    ("name", "precision"), [("onnxruntime", "bf16"), ("torch", "int8"), ("oracle", "f16")]
)
def test_a_precision_that_a_backend_lacks_is_a_config_error(name: str, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision: {precision}.*available: auto, f32"):
        resolve_backend(name, "cpu", precision)


def test_auto_is_half_precision_on_cards_and_the_devices_choice_on_processors() -> None:
    defaults = {name: resolve_precision(name, "auto") for name in BACKENDS}
    assert {name for name, precision in defaults.items() if precision == "f16"} == {
        name for name, entry in BACKENDS.items() if not entry.runs_on("cpu")
    }
    assert resolve_precision("torch:cuda", "f32") == "f32"


def test_every_backend_can_be_named_in_a_configuration() -> None:
    for name in (*BACKENDS, "auto", "onnxruntime", "torch", "simulated:t4"):
        assert load_config(None, [f"backend={name}"]).backend == name


def test_a_backend_with_a_missing_package_names_it() -> None:
    if find_spec("acl"):
        pytest.skip("CANN is installed")
    with pytest.raises(SetupError, match=r"backend ascend lacks CANN"):
        open_backend("ascend", b"", BackendOptions())


def test_installed_backends_are_found_without_loading_them() -> None:
    code = (
        "import sys; from distributed_pose.backends.readiness import examine;"
        "from distributed_pose.backends.registry import BACKENDS;"
        "print([ready.backend for ready in examine(BACKENDS) if not ready.lacks]);"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'acl') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    found, loaded = answer.stdout.splitlines()
    assert found.startswith("['openvino', 'onnxruntime:cpu', 'torch:cpu'")
    assert loaded == "[]"


def ports(**channels: int) -> list[ModelPort]:
    return [ModelPort(name, (None, n, None, None)) for name, n in channels.items()]


def test_the_last_of_several_stages_is_used() -> None:
    outputs = ports(
        stage_1_output_0_pafs=38,
        stage_0_output_1_heatmaps=19,
        stage_0_output_0_pafs=38,
        stage_1_output_1_heatmaps=19,
    )
    assert select_outputs(outputs, coco_body()) == (
        "stage_1_output_1_heatmaps",
        "stage_1_output_0_pafs",
    )


def test_a_stage_is_a_number_and_not_a_text() -> None:
    outputs = ports(stage_10_heatmaps=19, stage_9_heatmaps=19, pafs=38)
    assert select_outputs(outputs, coco_body()) == ("stage_10_heatmaps", "pafs")


@pytest.mark.parametrize("names", [("first", "second"), ("stage_1_a", "stage_1_b")])
def test_ambiguous_outputs_are_refused(names: tuple[str, str]) -> None:
    first, second = names
    outputs = ports(**dict.fromkeys(names, 19), pafs=38)
    with pytest.raises(SetupError, match=f"more than one output of 19 .*{first}.*{second}"):
        select_outputs(outputs, coco_body())


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [(None, 4, None, None)],
        [(3, None, None)],
        [(None, 3, None, None), (None, 2)],
    ],
)
def test_a_model_that_does_not_take_one_batch_of_images_is_refused(
    shapes: list[tuple[int | None, ...]],
) -> None:
    inputs = [ModelPort(f"input{number}", shape) for number, shape in enumerate(shapes)]
    with pytest.raises(SetupError, match=r"expected one of \[batch, 3, height, width\]") as caught:
        check_input(inputs)
    assert all(port.name in str(caught.value) for port in inputs)


@pytest.mark.parametrize("fixed", [(1, 3, None, None), (None, 3, 40, None), (2, 3, 32, 40)])
def test_a_batch_of_another_shape_than_the_models_is_a_setup_error(
    fixed: tuple[int | None, ...],
) -> None:
    with pytest.raises(SetupError, match=r"data \[.*the batch is \[2, 3, 32, 48\]"):
        check_fits(ModelPort("data", fixed), batch(2))
    check_fits(ModelPort("data", (2, 3, 32, None)), batch(2))


def test_a_batch_of_another_type_than_the_models_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match="input data is int64, the profile's float32"):
        check_fits(ModelPort("data", (2, 3, 32, 48), "int64"), batch(2))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("name", RUNTIMES)
def test_inputs_and_outputs_of_other_floats_are_converted(name: str, kind: int) -> None:
    other = onnx.load_model_from_string(model())
    for port in (*other.graph.input, *other.graph.output):
        port.type.tensor_type.elem_type = kind
    for node in [*other.graph.node]:
        output = node.output[0]
        node.input[0], node.output[0] = "floats", f"{output}.floats"
        other.graph.node.append(helper.make_node("Cast", [node.output[0]], [output], to=kind))
    other.graph.node.insert(0, helper.make_node("Cast", ["data"], ["floats"], to=TensorProto.FLOAT))
    expected, found = (
        open_backend(name, content, BackendOptions("f32")).infer(batch(2))
        for content in (model(), other.SerializeToString())
    )
    for one, wanted in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, wanted, atol=0.01)


@pytest.mark.parametrize("name", RUNTIMES)
def test_four_outputs_without_meaningful_names_are_read_by_order(name: str) -> None:
    stages = onnx.load_model_from_string(model())
    for number, (port, node) in enumerate(
        [*zip(stages.graph.output, stages.graph.node, strict=True)]
    ):
        first, port_before = NodeProto(), ValueInfoProto()
        first.CopyFrom(node)
        port_before.CopyFrom(port)
        first.output[0] = port_before.name = f"output_{17 + number}"
        first.input[0] = "negative"
        stages.graph.node.append(first)
        stages.graph.output.insert(number, port_before)
    stages.graph.node.insert(0, helper.make_node("Neg", ["data"], ["negative"]))
    found = open_backend(name, stages.SerializeToString(), BackendOptions("f32")).infer(batch(2))
    for one, expected in zip(found, opened(name).infer(batch(2)), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-5)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("shape", [[0, 3, "h", "w"], ["n", "h", "w", 3], ["n", 3, "w"], None])
def test_an_input_that_is_not_an_image_is_refused_in_one_line(
    name: str, shape: list[Any] | None
) -> None:
    other = onnx.load_model_from_string(model())
    other.graph.input[0].CopyFrom(helper.make_tensor_value_info("data", TensorProto.FLOAT, shape))
    with pytest.raises(SetupError, match=r"has (an )?input|cannot load the model: \S") as caught:
        open_backend(name, other.SerializeToString(), BackendOptions("f32"))
    assert "\n" not in str(caught.value)


def test_a_model_without_an_image_input_is_refused() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "flat",
        [value("x", TensorProto.FLOAT, ["n", 5])],
        [value("y", TensorProto.FLOAT, ["n", 5])],
    )
    opset = [helper.make_opsetid("", 11)]
    flat = helper.make_model(graph, opset_imports=opset, ir_version=7)
    onnx.checker.check_model(flat)
    for name in RUNTIMES:
        with pytest.raises(SetupError, match=r"y \[\?, 5\]"):
            open_backend(name, flat.SerializeToString(), BackendOptions("f32"))


@pytest.mark.parametrize(
    ("heatmaps", "pafs", "message"),
    [
        (np.zeros((2, 19, 4, 6)), np.zeros((2, 38, 4, 5)), "instead of"),
        (np.zeros((1, 19, 4, 6)), np.zeros((2, 38, 4, 6)), "instead of"),
        (np.full((2, 19, 4, 6), math.nan), np.zeros((2, 38, 4, 6)), "not finite"),
        (np.zeros((2, 19, 4, 6)), np.full((2, 38, 4, 6), math.inf), "not finite"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_impossible_answer_is_an_execution_error(
    heatmaps: np.ndarray, pafs: np.ndarray, message: str, dtype: type[np.floating]
) -> None:
    maps = NetworkOutput(heatmaps.astype(dtype), pafs.astype(dtype))
    with pytest.raises(ExecutionError, match=message) as caught:
        check_maps(maps, batch(2), coco_body())
    assert caught.value.image_ids == (0, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@example(bits=0x7F7FFFFF, at=0)
@example(bits=0x7F807C00, at=38 * 24 - 1)
@given(bits=st.integers(0, 2**32 - 1), at=st.integers(0, 38 * 24 - 1))
def test_an_answer_is_finite_if_each_of_its_values_is(
    bits: int, at: int, dtype: type[np.floating]
) -> None:
    heatmaps, pafs = np.zeros((1, 19, 4, 6), dtype), np.zeros((1, 38, 4, 6), dtype)
    pafs.reshape(-1)[at] = np.array([bits], np.uint32).view(dtype)[0]
    # A backend may return channels last, or a view of a larger array.
    maps = NetworkOutput(heatmaps, np.asfortranarray(pafs))
    with nullcontext() if np.isfinite(pafs).all() else pytest.raises(ExecutionError):
        assert check_maps(maps, batch(1), coco_body()) is maps


def test_a_model_that_fails_on_a_batch_is_an_execution_error() -> None:
    # The kernel of 8x8 is larger than the image.
    with pytest.raises(ExecutionError, match="cannot run the model") as caught:
        opened("onnxruntime:cpu").infer(batch(1, 4, 4))
    assert caught.value.image_ids == (0,)
