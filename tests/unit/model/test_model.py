"""The network, its checkpoints and its ONNX exports have the published names and outputs."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from distributed_pose import ConfigError, SetupError
from distributed_pose.backends.registry import compile_spec
from distributed_pose.demo.publish import weights_of
from distributed_pose.files.local import sha256_hex
from distributed_pose.model.architecture import Weights, output_names, tensor_shapes
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.checkpoint import load_checkpoint
from distributed_pose.model.compile import portable
from distributed_pose.model.export import OPSETS, export_onnx, write_checkpoint
from distributed_pose.model.network import LightweightOpenPose
from distributed_pose.model.state_dict import COUNTER
from tests.checkpoints import network_in
from tests.tiny_models import save_constant_model

TOLERANCE = 1e-4

# The rounding of about 60 layers, relative to the largest value of the maps.
FLOAT32_ROUNDING = 1e-5


@pytest.fixture(scope="module")
def network() -> LightweightOpenPose:
    return made_network(1)


def made_network(refinement_stages: int) -> LightweightOpenPose:
    """Returns a network with distinct values in all tensors, including batch statistics."""
    torch.manual_seed(0)
    made = LightweightOpenPose(refinement_stages)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return made.eval()


@pytest.fixture(scope="module")
def weights(network: LightweightOpenPose) -> Weights:
    return weights_of(network.state_dict())


@pytest.fixture(scope="module")
def exported(weights: Weights) -> bytes:
    return export_onnx(weights)


@pytest.fixture
def checkpoint(network: LightweightOpenPose, tmp_path: Path) -> Path:
    path = tmp_path / "network.pth"
    torch.save(network.state_dict(), path)
    return path


def run_onnx(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"data": images}), strict=True))


def test_tensors_have_the_published_names_and_shapes(
    network: LightweightOpenPose, shared: Path
) -> None:
    manifest = json.loads((shared / "reference/lightweight_openpose_state_dict.json").read_text())
    found = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == manifest


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_layers_as_data_have_the_tensors_of_the_module(stages: int) -> None:
    module = LightweightOpenPose(stages).state_dict()
    found = {name: tuple(t.shape) for name, t in module.items() if not name.endswith(COUNTER)}
    assert found == tensor_shapes(stages)
    assert list(found) == list(tensor_shapes(stages))


def test_reference_weights_give_the_reference_outputs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(shared / "reference"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    from reference_weights import reference_state_dict

    weights = {name: torch.from_numpy(w) for name, w in reference_state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "reference.pth")
    stored = np.load(shared / "reference" / "lightweight_openpose.npz")
    with torch.inference_mode():
        outputs = network_in(tmp_path / "reference.pth")(torch.from_numpy(stored["x"]))
    exported = run_onnx(export_onnx(reference_state_dict()), stored["x"])
    names = ("stage0_heatmaps", "stage0_pafs", "heatmaps", "pafs")
    for name, of_torch, of_onnx in zip(names, outputs, exported.values(), strict=True):
        np.testing.assert_allclose(of_torch.numpy(), stored[name], atol=TOLERANCE, err_msg=name)
        np.testing.assert_allclose(of_onnx, stored[name], atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("wrapped", [False, True])
def test_half_precision_weights_are_loaded_as_float32(
    network: LightweightOpenPose, tmp_path: Path, *, wrapped: bool
) -> None:
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    torch.save({"state_dict": half, "epoch": 3} if wrapped else half, tmp_path / "half.pth")
    loaded = network_in(tmp_path / "half.pth")
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, half[name].to(tensor.dtype)), name
        assert tensor.dtype in {torch.float32, torch.int64}


def test_differences_from_the_network_are_listed(
    network: LightweightOpenPose, tmp_path: Path
) -> None:
    weights = dict(network.state_dict())
    del weights["model.0.0.weight"]
    weights["extra.bias"] = torch.zeros(1)
    weights["cpm.align.0.bias"] = torch.zeros(7)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(SetupError) as caught:
        network_in(tmp_path / "other.pth")
    text = str(caught.value)
    assert "1 missing: model.0.0.weight" in text
    assert "1 surplus: extra.bias" in text
    assert "cpm.align.0.bias [7] instead of [128]" in text


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, *, zipped: bool) -> None:
    made = tmp_path / "made"
    torch.save(
        {"weight": RunsCode(made)},
        tmp_path / "code.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(SetupError, match=r"code\.pth"):
        network_in(tmp_path / "code.pth")
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        partial(len, "run"),
        torch.nn.Linear(1, 1),
        torch.zeros(3),
        [1, 2],
        {},
        {"state_dict": {"a": 1}},
        {0: torch.zeros(3)},
    ],
)
def test_a_pickle_that_is_not_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pickle.pth")
    with pytest.raises(SetupError, match=r"pickle\.pth"):
        network_in(tmp_path / "pickle.pth")


def test_a_truncated_checkpoint_is_refused(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(SetupError, match=r"network\.pth"):
        network_in(checkpoint)


@pytest.mark.parametrize("content", [b"", b"random bytes", b"PK\x03\x04broken"])
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(SetupError, match=r"broken\.pth"):
        network_in(tmp_path / "broken.pth")


def test_the_export_has_the_guides_names_and_takes_any_batch_and_size(exported: bytes) -> None:
    model = onnx.load_model_from_string(exported)
    images = np.random.default_rng(1).standard_normal((3, 3, 40, 72)).astype(np.float32)
    assert [opset.version for opset in model.opset_import] == [11]
    assert [port.name for port in model.graph.input] == ["data"]
    assert {name: maps.shape for name, maps in run_onnx(exported, images).items()} == {
        "stage_0_output_1_heatmaps": (3, 19, 5, 9),
        "stage_0_output_0_pafs": (3, 38, 5, 9),
        "stage_1_output_1_heatmaps": (3, 19, 5, 9),
        "stage_1_output_0_pafs": (3, 38, 5, 9),
    }


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 3, 64, 96), (2, 3, 40, 72)])
def test_the_export_answers_as_pytorch_does(stages: int, size: tuple[int, ...]) -> None:
    network = made_network(stages)
    images = np.random.default_rng(stages).uniform(-0.5, 0.5, size).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))
    found = run_onnx(
        export_onnx(weights_of(network.state_dict()), refinement_stages=stages), images
    )
    assert tuple(found) == output_names(stages)
    for output, wanted in zip(found.values(), expected, strict=True):
        scale = float(wanted.abs().max())
        np.testing.assert_allclose(output, wanted.numpy(), atol=FLOAT32_ROUNDING * scale)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_gives_the_same_maps(weights: Weights, exported: bytes, opset: int) -> None:
    images = np.random.default_rng(3).uniform(-0.5, 0.5, (1, 3, 32, 32)).astype(np.float32)
    written = export_onnx(weights, opset=opset)
    assert [o.version for o in onnx.load_model_from_string(written).opset_import] == [opset]
    expected = run_onnx(exported, images)
    for name, output in run_onnx(written, images).items():
        np.testing.assert_array_equal(output, expected[name])


def test_the_export_has_only_operators_that_vendors_compilers_take(exported: bytes) -> None:
    model = onnx.load_model_from_string(exported)
    assert {node.op_type for node in model.graph.node} == {"Conv", "Relu", "Elu", "Add", "Concat"}
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT}
    # Older compilers refuse newer versions of the format.
    assert model.ir_version == 6
    # Shape inference agrees with the declared shapes.
    onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def test_the_same_weights_give_the_same_bytes(weights: Weights, exported: bytes) -> None:
    assert export_onnx(dict(reversed([*weights.items()]))) == exported


@pytest.mark.parametrize("stages", [1, 3])
def test_an_onnx_checkpoint_keeps_weights_in_half_precision_and_runs_in_float32(
    stages: int,
) -> None:
    weights = weights_of(made_network(stages).state_dict())
    written = write_checkpoint(weights, refinement_stages=stages)
    found = load_checkpoint(written, "a.onnx", stages).weights
    rounded = {name: w.astype(np.float16).astype(np.float32) for name, w in weights.items()}
    assert found.keys() == weights.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, rounded[name], err_msg=name)
    images = np.random.default_rng(4).uniform(-0.5, 0.5, (2, 3, 48, 32)).astype(np.float32)
    expected = run_onnx(export_onnx(rounded, refinement_stages=stages), images)
    for name, output in run_onnx(written, images).items():
        scale = float(np.abs(expected[name]).max())
        np.testing.assert_allclose(output, expected[name], atol=FLOAT32_ROUNDING * scale)


def test_an_onnx_checkpoint_is_a_checkpoint_and_other_onnx_is_not(
    weights: Weights, exported: bytes, tmp_path: Path
) -> None:
    for name, content in (("a.bin", write_checkpoint(weights)), ("b.bin", exported)):
        (tmp_path / name).write_bytes(content)
    assert load_source(tmp_path / "a.bin").format == "pth"
    assert load_source(tmp_path / "b.bin").format == "onnx"


@pytest.mark.parametrize("kept", [40, 3000, 8_000_000])
def test_a_truncated_onnx_checkpoint_is_refused(weights: Weights, kept: int) -> None:
    with pytest.raises(SetupError, match=r"^a\.onnx "):
        load_checkpoint(write_checkpoint(weights)[:kept], "a.onnx")


@pytest.mark.parametrize("change", ["raw_data", "data_type", "external"])
def test_an_onnx_checkpoint_with_a_damaged_tensor_is_refused(weights: Weights, change: str) -> None:
    model = onnx.load_model_from_string(write_checkpoint(weights))
    tensor = model.graph.initializer[0]
    if change == "external":
        onnx.external_data_helper.set_external_data(tensor, "README.md")
    elif change == "raw_data":
        tensor.raw_data = tensor.raw_data[:-2]
    else:
        tensor.data_type = 99
    with pytest.raises(SetupError, match=r"^a\.onnx is a damaged checkpoint: .*copy it again"):
        load_checkpoint(model.SerializeToString(), "a.onnx")


def test_the_last_stage_alone_is_the_same(weights: Weights, exported: bytes) -> None:
    images = np.random.default_rng(2).standard_normal((1, 3, 32, 32)).astype(np.float32)
    whole = run_onnx(exported, images)
    last = run_onnx(export_onnx(weights, last_stage=True), images)
    assert tuple(last) == output_names()[2:]
    for name, output in last.items():
        np.testing.assert_array_equal(output, whole[name])


@pytest.mark.parametrize("opset", [8, 21, 99])
def test_an_opset_that_cannot_be_written_is_a_config_error(weights: Weights, opset: int) -> None:
    with pytest.raises(ConfigError, match=f"opset {opset} is not in 9 to 20"):
        export_onnx(weights, opset=opset)


def onnx_of(path: Path) -> bytes:
    return portable(load_source(path), compile_spec("openvino", "auto", "modelzoo")).content


def test_an_onnx_file_is_loaded_unchanged(tmp_path: Path) -> None:
    path = save_constant_model(tmp_path / "model.onnx")
    source = load_source(path)
    assert (source.content, source.format) == (path.read_bytes(), "onnx")
    assert source.sha256 == sha256_hex(path.read_bytes())
    assert source.path == str(path)
    assert onnx_of(path) == path.read_bytes()


def test_a_checkpoint_is_exported_once_and_cached_by_content(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = onnx_of(checkpoint)
    (kept,) = (p for p in (tmp_path / "cache").rglob("artifact") if p.stat().st_size > 10_000)
    written = kept.stat().st_mtime_ns
    assert onnx_of(checkpoint) == first
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"damaged")
    assert onnx_of(checkpoint) == kept.read_bytes()
    assert tuple(run_onnx(first, np.zeros((1, 3, 32, 32), np.float32))) == output_names()[2:]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.onnx", "cannot read .*missing.onnx"),
        ("missing.pth", "cannot read .*missing.pth"),
        ("model.txt", "model.txt is not a model file .*ONNX file, a checkpoint .*or an .om"),
    ],
)
def test_a_path_that_is_not_a_model_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "model.txt").write_text("weights")
    with pytest.raises(SetupError, match=message):
        load_source(tmp_path / name)
