"""Model files are recognised by their content and not by their names."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
import safetensors.torch

from distributed_pose import ConfigError, SetupError
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.formats import format_of
from tests.checkpoints import demo_state, saved, snapshot
from tests.tiny_models import save_constant_model

NAMES = (
    "a.pth",
    "a.PTH",
    "a.pth.tar",
    "a.pt",
    "a.ckpt",
    "epoch=3-step=9.ckpt",
    "weights",
    "v1.2",
    "a b.Bin",
    "a.onnx",
    "a.om",
    "gewichte-ü.pth",
)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_constant_model(tmp_path_factory.mktemp("onnx") / "a.onnx").read_bytes()


def test_the_content_decides_the_format_and_not_the_name(onnx: bytes) -> None:
    kinds = {
        "pth": [WEIGHTS.read_bytes(), saved({}, zipped=False), safetensors.torch.save({})],
        "onnx": [onnx],
        "om": [b"IMOD and more"],
    }
    for kind, contents in kinds.items():
        for content in contents:
            assert {format_of(content[:512], name) for name in NAMES} == {kind}


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_any_name_is_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WEIGHTS.read_bytes())
    source = load_source(tmp_path / name)
    assert (source.format, source.refinement_stages) == ("pth", 1)
    assert source.path == str(tmp_path / name)


def test_onnx_with_a_checkpoints_file_name_is_onnx(shared: Path) -> None:
    for path in (shared / "models").glob("*.onnx"):
        assert format_of(path.read_bytes()[:512], "model") == "onnx"


def test_the_name_decides_the_format_of_unrecognised_content() -> None:
    assert format_of(b"\xff\xff", "a.ONNX") == "onnx"
    assert format_of(b"", "a.om") == "om"


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("a.pth"), io.BytesIO())
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"weights", "is not a model file of a known format"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "a Git LFS pointer.*lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>", "a web page.*download the file again"),
        (gzip.compress(b"a"), "compressed with gzip.*gunzip"),
        (tar(), "a tar archive.*tar -x"),
    ],
)
def test_a_file_that_is_not_a_model_is_refused_with_its_kind(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.pth.tar").write_bytes(content)
    with pytest.raises(SetupError, match=rf"a\.pth\.tar.*{message}"):
        load_source(tmp_path / "a.pth.tar")


def test_a_path_that_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    for name, message in (
        ("pipe", "not a regular file"),
        ("folder", "a folder"),
        ("none", "No such"),
    ):
        with pytest.raises(SetupError, match=rf"{name}\.pth.*{message}") as caught:
            load_source(tmp_path / f"{name}.pth")
        assert "model.path" in caught.value.hint
    with pytest.raises(SetupError, match="/dev/zero: it is not a regular file but a device"):
        load_source(Path("/dev/zero"))


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", b"\x08\x07\x12\x07", b"IMOD"])
def test_a_file_of_a_terabyte_is_not_read(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(start)
    os.truncate(path, 2**40)
    with pytest.raises(
        SetupError, match=r"a\.pth(: it has 1099511627776 bytes| is not a model file)"
    ):
        load_source(path)


def test_stages_for_a_model_that_is_not_a_checkpoint_are_a_config_error(tmp_path: Path) -> None:
    path = save_constant_model(tmp_path / "a.onnx")
    assert load_source(path).refinement_stages is None
    message = r"model\.refinement_stages=2 applies only to checkpoints, and .*a\.onnx is not one"
    with pytest.raises(ConfigError, match=message):
        load_source(path, 2)


def test_the_notes_on_a_checkpoint_are_the_same_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a.pth"
    path.write_bytes(saved(snapshot(demo_state())))
    first = load_source(path)
    assert first.unused == ("optimizer", "scheduler", "iter", "current_epoch")
    assert (tmp_path / "cache").exists()
    assert load_source(path) == first
