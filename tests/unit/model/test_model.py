import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from distributed_pose import ConfigError, SetupError
from distributed_pose.files import sha256_hex
from distributed_pose.model.artifacts import load_model
from distributed_pose.model.checkpoint import load_checkpoint
from distributed_pose.model.export import OUTPUT_NAMES, export_onnx
from distributed_pose.model.network import LightweightOpenPose

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def network() -> LightweightOpenPose:
    """A network whose every tensor is its own, batch statistics too."""
    torch.manual_seed(0)
    made = LightweightOpenPose()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval()


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
        outputs = load_checkpoint(tmp_path / "reference.pth")(torch.from_numpy(stored["x"]))
    names = ("stage0_heatmaps", "stage0_pafs", "heatmaps", "pafs")
    for name, output in zip(names, outputs, strict=True):
        np.testing.assert_allclose(output.numpy(), stored[name], atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("wrapped", [False, True])
def test_half_precision_weights_are_loaded_as_float32(
    network: LightweightOpenPose, tmp_path: Path, *, wrapped: bool
) -> None:
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    torch.save({"state_dict": half, "epoch": 3} if wrapped else half, tmp_path / "half.pth")
    loaded = load_checkpoint(tmp_path / "half.pth")
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, half[name].to(tensor.dtype)), name
        assert tensor.dtype in {torch.float32, torch.int64}


def test_what_differs_from_the_network_is_listed(
    network: LightweightOpenPose, tmp_path: Path
) -> None:
    weights = dict(network.state_dict())
    del weights["model.0.0.weight"]
    weights["extra.bias"] = torch.zeros(1)
    weights["cpm.align.0.bias"] = torch.zeros(7)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(SetupError) as caught:
        load_checkpoint(tmp_path / "other.pth")
    text = str(caught.value)
    assert "1 missing: model.0.0.weight" in text
    assert "1 surplus: extra.bias" in text
    assert "cpm.align.0.bias [7] instead of [128]" in text


@pytest.mark.parametrize("content", [partial(print, "run"), [1, 2], {"state_dict": {"a": 1}}])
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pickle.pth")
    with pytest.raises(SetupError, match=r"pickle\.pth"):
        load_checkpoint(tmp_path / "pickle.pth")


@pytest.mark.parametrize("content", [b"", b"random bytes", b"PK\x03\x04broken"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(SetupError, match=r"broken\.pth"):
        load_checkpoint(tmp_path / "broken.pth")


def test_the_export_has_the_guides_names_and_takes_any_batch_and_size(
    network: LightweightOpenPose,
) -> None:
    content = export_onnx(network)
    model = onnx.load_model_from_string(content)
    images = np.random.default_rng(1).standard_normal((3, 3, 40, 72)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))
    found = run_onnx(content, images)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [11]
    assert [port.name for port in model.graph.input] == ["data"]
    assert tuple(found) == OUTPUT_NAMES
    for output, wanted in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(output, wanted.numpy(), atol=TOLERANCE)


def test_the_last_stage_alone_is_the_same(network: LightweightOpenPose) -> None:
    images = np.zeros((1, 3, 32, 32), np.float32)
    whole = run_onnx(export_onnx(network), images)
    last = run_onnx(export_onnx(network, last_stage=True), images)
    assert tuple(last) == OUTPUT_NAMES[2:]
    for name, output in last.items():
        np.testing.assert_array_equal(output, whole[name])


def test_an_opset_that_cannot_be_written_is_a_config_error(network: LightweightOpenPose) -> None:
    with pytest.raises(ConfigError, match="opset 99"):
        export_onnx(network, opset=99)


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"content")
    artifact = load_model(tmp_path / "model.onnx")
    assert artifact.content == b"content"
    assert artifact.sha256 == sha256_hex(b"content")


def test_a_checkpoint_is_exported_once_and_kept_by_content(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = load_model(checkpoint)
    (kept,) = (tmp_path / "cache").rglob("*.onnx")
    kept.write_bytes(b"kept")
    second = load_model(checkpoint)
    assert first.sha256 == second.sha256 == sha256_hex(checkpoint.read_bytes())
    assert second.content == b"kept"
    assert tuple(run_onnx(first.content, np.zeros((1, 3, 32, 32), np.float32))) == OUTPUT_NAMES[2:]


@pytest.mark.parametrize("name", ["missing.onnx", "missing.pth", "README.md"])
def test_what_is_no_model_file_is_named(name: str) -> None:
    path = Path(__file__).parents[3] / name
    with pytest.raises(SetupError, match=name):
        load_model(path)
