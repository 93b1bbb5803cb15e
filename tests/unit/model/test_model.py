import copy
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

from distributed_pose import ConfigError, SetupError
from distributed_pose.files import sha256_hex
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.compile import portable
from distributed_pose.model.export import export_onnx, output_names
from distributed_pose.model.network import LightweightOpenPose
from distributed_pose.records import Order
from tests.checkpoints import network_in
from tests.tiny_models import save_constant_model

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


@pytest.fixture(scope="module")
def exported(network: LightweightOpenPose) -> bytes:
    return export_onnx(network)


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
        outputs = network_in(tmp_path / "reference.pth")(torch.from_numpy(stored["x"]))
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
    loaded = network_in(tmp_path / "half.pth")
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
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pickle.pth")
    with pytest.raises(SetupError, match=r"pickle\.pth"):
        network_in(tmp_path / "pickle.pth")


def test_a_checkpoint_that_is_cut_off_is_refused(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(SetupError, match=r"network\.pth"):
        network_in(checkpoint)


@pytest.mark.parametrize("content", [b"", b"random bytes", b"PK\x03\x04broken"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(SetupError, match=r"broken\.pth"):
        network_in(tmp_path / "broken.pth")


def test_the_export_has_the_guides_names_and_takes_any_batch_and_size(
    network: LightweightOpenPose, exported: bytes
) -> None:
    model = onnx.load_model_from_string(exported)
    images = np.random.default_rng(1).standard_normal((3, 3, 40, 72)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))
    found = run_onnx(exported, images)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [11]
    assert [port.name for port in model.graph.input] == ["data"]
    assert tuple(found) == output_names()
    for output, wanted in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(output, wanted.numpy(), atol=TOLERANCE)


def test_the_last_stage_alone_is_the_same(network: LightweightOpenPose, exported: bytes) -> None:
    images = np.random.default_rng(2).standard_normal((1, 3, 32, 32)).astype(np.float32)
    whole = run_onnx(exported, images)
    last = run_onnx(export_onnx(network, last_stage=True), images)
    assert tuple(last) == output_names()[2:]
    for name, output in last.items():
        np.testing.assert_array_equal(output, whole[name])


def test_a_network_that_onnx_runtime_answers_otherwise_is_not_exported(
    network: LightweightOpenPose,
) -> None:
    broken = copy.deepcopy(network)
    torch.nn.init.constant_(broken.model[0][0].weight, torch.nan)
    with pytest.raises(SetupError, match="stage_1_output_1_heatmaps differs"):
        export_onnx(broken, last_stage=True)


def test_an_opset_that_cannot_be_written_is_a_config_error(network: LightweightOpenPose) -> None:
    with pytest.raises(ConfigError, match="opset 99"):
        export_onnx(network, opset=99)


def onnx_of(path: Path) -> bytes:
    return portable(load_source(path), Order("openvino", "auto", "modelzoo")).content


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = save_constant_model(tmp_path / "model.onnx")
    source = load_source(path)
    assert (source.content, source.format) == (path.read_bytes(), "onnx")
    assert source.sha256 == sha256_hex(path.read_bytes())
    assert source.path == str(path)
    assert onnx_of(path) == path.read_bytes()


def test_a_checkpoint_is_exported_once_and_kept_by_content(
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
        ("model.txt", "model.txt is no model file .*ONNX file, a checkpoint .*or an .om"),
    ],
)
def test_what_is_no_model_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "model.txt").write_text("weights")
    with pytest.raises(SetupError, match=message):
        load_source(tmp_path / name)
