"""TensorRT's commands, shapes, options and engines, tested without a card."""

import io
import os
import zipfile
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from distributed_pose import SetupError
from distributed_pose.devices.nvidia import EngineShapes, forbid_tf32
from distributed_pose.model.engines import pack_engines, unpack_engines
from distributed_pose.model.half import to_half
from distributed_pose.model.tensorrt import (
    build_engines,
    building_options,
    checked_precision,
    engine_shapes,
    labelled_engine,
    toolkit_version,
    trtexec_command,
)
from tests.tiny_models import save_constant_model

MODEL = Path("M.onnx")
ONE = EngineShapes("data", 1, 1, 368, 640)


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    return save_constant_model(tmp_path / "tiny.onnx", value=0.5).read_bytes()


def test_the_command_is_the_guides() -> None:
    command = trtexec_command(MODEL, shapes=ONE, precision="f16")
    assert " ".join(command) == "trtexec --onnx=M.onnx --fp16 --shapes=data:1x3x368x640"


def test_a_range_of_batch_sizes_is_given_by_its_ends() -> None:
    command = trtexec_command(MODEL, shapes=EngineShapes("input", 1, 8, 368, 640), precision="f16")
    assert " ".join(command) == (
        "trtexec --onnx=M.onnx --fp16 --minShapes=input:1x3x368x640 "
        "--optShapes=input:8x3x368x640 --maxShapes=input:8x3x368x640"
    )


def test_float32_is_not_computed_in_tf32() -> None:
    command = trtexec_command(MODEL, shapes=ONE, precision="f32")
    assert " ".join(command) == "trtexec --onnx=M.onnx --noTF32 --shapes=data:1x3x368x640"


def with_batch(content: bytes, size: int) -> bytes:
    model = onnx.load_model_from_string(content)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    return bytes(model.SerializeToString())


def test_each_batch_size_has_an_engine_that_takes_single_images_too(tiny: bytes) -> None:
    found = engine_shapes(tiny, batch_sizes=(8, 4, 4), height=368, width=640)
    assert found == tuple(EngineShapes("data", 1, most, 368, 640) for most in (4, 8))


def test_a_model_of_a_fixed_batch_has_one_engine(tiny: bytes) -> None:
    found = engine_shapes(with_batch(tiny, 4), batch_sizes=(1, 8), height=368, width=640)
    assert found == (EngineShapes("data", 4, 4, 368, 640),)


def test_an_engine_has_the_precision_of_the_model_or_is_refused(tiny: bytes) -> None:
    exact, half = (onnx.load_model_from_string(content) for content in (tiny, to_half(tiny)))
    assert checked_precision(exact, "f32") == checked_precision(exact, "auto") == "f32"
    assert checked_precision(half, "f16") == checked_precision(half, "auto") == "f16"
    with pytest.raises(SetupError, match="precision f32, so the engine would not have f16"):
        checked_precision(exact, "f16")
    with pytest.raises(SetupError, match="precision f16, so the engine would not have f32"):
        checked_precision(half, "f32")


def wrapping(*kinds: str) -> bytes:
    names = ["data", *[f"value{number}" for number in range(len(kinds))]]
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node(kind, [source], [target])
        for kind, source, target in zip(kinds, names, names[1:], strict=False)
    ]
    ports = [value(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in (names[0], names[-1])]
    model: ModelProto = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:]))
    return bytes(model.SerializeToString())


def test_an_engine_states_its_precision() -> None:
    model = onnx.load_model_from_string(labelled_engine(wrapping("EPContext"), "f16"))
    assert {entry.key: entry.value for entry in model.metadata_props} == {"precision": "f16"}


def test_an_engine_for_a_part_of_the_model_is_refused() -> None:
    with pytest.raises(SetupError, match="only parts of the model, which became EPContext, Relu"):
        labelled_engine(wrapping("EPContext", "Relu"), "f16")


@pytest.mark.parametrize(("half", "text"), [(True, "True"), (False, "False")])
def test_the_provider_gets_the_options_of_the_engine_and_its_file(*, half: bool, text: str) -> None:
    shapes, file = EngineShapes("data", 1, 8, 368, 640), Path("/engines/8.onnx")
    assert building_options(2, half=half, shapes=shapes, file=file) == {
        "device_id": "2",
        "trt_fp16_enable": text,
        "trt_profile_min_shapes": "data:1x3x368x640",
        "trt_profile_opt_shapes": "data:8x3x368x640",
        "trt_profile_max_shapes": "data:8x3x368x640",
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": "/engines/8.onnx",
        "trt_ep_context_embed_mode": "1",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/engines",
    }


def test_several_engines_are_packed_and_a_single_one_is_not() -> None:
    assert pack_engines({8: b"engine"}) == b"engine"
    assert unpack_engines(b"engine", 8) == {8: b"engine"}
    engines = {1: b"one", 16: b"sixteen", 2: b"two"}
    assert pack_engines(engines) == pack_engines(dict(sorted(engines.items())))
    found = unpack_engines(pack_engines(engines), 32)
    assert list(found) == [1, 2, 16]
    assert found == engines


def test_an_archive_of_other_files_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.xml", "")
    with pytest.raises(SetupError, match="not a set of TensorRT engines"):
        unpack_engines(buffer.getvalue(), 8)


def test_without_tensorrt_the_missing_provider_is_named(tiny: bytes) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has TensorRT")
    with pytest.raises(SetupError, match=r"no TensorrtExecutionProvider, it has .*onnxruntime-gpu"):
        build_engines(tiny, batch_sizes=(1,), height=32, width=48, precision="f32")


def test_the_versions_of_the_toolkit_are_reported() -> None:
    assert f"onnxruntime {onnxruntime.__version__}, tensorrt " in toolkit_version()


def test_float32_engines_do_not_compute_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    forbid_tf32()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
