"""Artifacts are compiled once, cached by everything that they depend on, and checked when read."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto

from distributed_pose import ConfigError, SetupError
from distributed_pose.backends.registry import compile_spec
from distributed_pose.files.local import sha256_hex
from distributed_pose.model.artifacts import (
    Artifact,
    ModelSource,
    cache_folder,
    keep,
    load_cached,
    load_source,
)
from distributed_pose.model.compile import cache_name, compile_model, needs_device, portable
from distributed_pose.model.makers import Calibration, fixed_input
from distributed_pose.records.images import InputSize
from tests.tiny_models import save_constant_model

CPU = compile_spec("onnxruntime:cpu", "f32", "modelzoo")
HALF = compile_spec("onnxruntime:cuda", "f16", "modelzoo")
OM = compile_spec("ascend", "f16", "modelzoo", (1,), "Ascend310P3")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return load_source(save_constant_model(tmp_path / "model.onnx", value=0.25))


def input_type(content: bytes) -> int:
    return int(onnx.load_model_from_string(content).graph.input[0].type.tensor_type.elem_type)


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("openvino", False),
        ("onnxruntime:cuda", False),
        ("torch:cuda", False),
        ("onnxruntime:tensorrt", True),
        ("ascend", True),
        ("ascend-ais", True),
        ("oracle", False),
    ],
)
def test_artifacts_of_a_vendors_compiler_are_made_on_the_node_of_the_compiler(
    source: ModelSource, backend: str, *, expected: bool
) -> None:
    spec = compile_spec(backend, "auto", "modelzoo")
    assert needs_device(source, spec) is expected
    assert not needs_device(replace(source, format="om"), spec)


def test_an_onnx_file_is_run_unchanged_and_not_cached(source: ModelSource) -> None:
    assert compile_model(source, CPU).content == source.content
    assert not cache_folder().exists()


def test_bytes_are_normalised_inside_the_model(source: ModelSource) -> None:
    content = compile_model(source, replace(CPU, profile="uint8")).content
    assert (input_type(source.content), input_type(content)) == (
        TensorProto.FLOAT,
        TensorProto.UINT8,
    )


def test_a_slow_artifact_is_cached_with_its_card(source: ModelSource) -> None:
    artifact = compile_model(source, HALF)
    (folder,) = cache_folder().iterdir()
    card = json.loads((folder / "card.json").read_text())
    assert folder.name == cache_name(source, HALF)
    assert (folder / "artifact").read_bytes() == artifact.content != source.content
    assert card == artifact.card
    assert (card["backend"], card["precision"], card["profile"]) == (
        "onnxruntime:cuda",
        "f16",
        "modelzoo",
    )
    assert card["sha256"] == sha256_hex(artifact.content)
    assert card["bytes"] == len(artifact.content)
    assert card["source"] == {"file": "model.onnx", "sha256": source.sha256}
    assert card["inputs"] == [
        {"name": "data", "shape": ["n", 3, "h", "w"], "dtype": "float32"},
    ]
    assert [port["name"] for port in card["outputs"]] == ["heatmaps", "pafs"]
    assert "onnxruntime" in card["toolchain"]
    assert compile_model(source, HALF) == artifact


def test_cache_names_differ_with_everything_that_an_artifact_depends_on(
    source: ModelSource,
) -> None:
    other = replace(source, content=source.content + b"x")
    calibration = Calibration(list, "some images", 3)
    int8 = compile_spec("openvino", "int8", "modelzoo")
    names = [
        cache_name(source, OM),
        cache_name(other, OM),
        cache_name(source, replace(OM, target="Ascend310")),
        cache_name(source, replace(OM, precision="f32")),
        cache_name(source, replace(OM, profile="uint8")),
        cache_name(source, replace(OM, batch_sizes=(4,))),
        cache_name(source, replace(OM, backend="ascend-ais")),
        cache_name(source, int8, calibration),
        cache_name(source, int8, replace(calibration, digest="others")),
    ]
    assert len(set(names)) == len(names)


def test_an_artifact_for_any_batch_size_has_one_cache_name(source: ModelSource) -> None:
    names = {cache_name(source, replace(HALF, batch_sizes=(size,))) for size in (1, 8)}
    assert len(names) == 1


def test_the_version_of_a_compiler_is_part_of_the_cache_name(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for version in ("8.0.0", "8.2.0"):
        monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path / version))
        (tmp_path / version / "compiler").mkdir(parents=True)
        for folder in (tmp_path / version, tmp_path / version / "compiler"):
            (folder / "version.info").write_text(f"Version={version}\n")
        names.add(cache_name(source, OM))
    assert len(names) == 2


@pytest.mark.parametrize("damage", ["content", "card", "no card"])
def test_a_damaged_cache_entry_counts_as_missing(source: ModelSource, damage: str) -> None:
    artifact = compile_model(source, HALF)
    name = cache_name(source, HALF)
    folder = keep(name, artifact)
    if damage == "content":
        (folder / "artifact").write_bytes(artifact.content[:-1])
    elif damage == "card":
        (folder / "card.json").write_text("{")
    else:
        (folder / "card.json").unlink()
    assert load_cached(name) is None
    assert compile_model(source, HALF) == replace(
        artifact, card={**artifact.card, "seconds": compile_model(source, HALF).card["seconds"]}
    )


@pytest.mark.parametrize("change", [{"bytes": None}, {"batch_sizes": 5}, {"seconds": "long"}])
def test_an_artifact_whose_card_has_other_keys_or_types_is_made_again(
    source: ModelSource, change: dict[str, Any]
) -> None:
    artifact = compile_model(source, HALF)
    keep(cache_name(source, HALF), Artifact(artifact.content, {**artifact.card, **change}))
    assert compile_model(source, HALF).card["bytes"] == len(artifact.content)
    assert compile_model(source, HALF).card["batch_sizes"] == artifact.card["batch_sizes"]


def test_an_artifact_that_cannot_be_cached_is_made_with_a_warning(
    source: ModelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache" / "distributed_pose").mkdir(parents=True)
    (tmp_path / "cache" / "distributed_pose" / "models").write_text("in the way")
    assert compile_model(source, HALF).card["precision"] == "f16"
    assert "not kept for the next run" in caplog.text
    assert load_cached(cache_name(source, HALF)) is None


def test_a_card_and_a_cache_name_do_not_depend_on_which_of_equal_devices_made_them(
    source: ModelSource,
) -> None:
    elsewhere = replace(HALF, index=3)
    assert cache_name(source, elsewhere) == cache_name(source, HALF)
    assert "index" not in compile_model(source, elsewhere).card


def test_annotations_and_compiled_models_pass_through() -> None:
    for kind in ("truth", "om"):
        source = ModelSource(b"content", kind, sha256_hex(b"content"), "a.file")
        spec = replace(OM, backend="oracle" if kind == "truth" else "ascend")
        assert portable(source, spec) is source
        assert compile_model(source, spec).content == b"content"


def test_a_compiled_model_runs_only_on_ascend() -> None:
    source = ModelSource(b"content", "om", "", "a.om")
    with pytest.raises(SetupError, match=r"a\.om is compiled for Ascend, and backend onnxruntime"):
        portable(source, CPU)


def test_int8_without_images_is_a_setup_error(source: ModelSource) -> None:
    with pytest.raises(SetupError, match=r"int8 needs images .*data\.images"):
        compile_model(source, compile_spec("openvino", "int8", "modelzoo"))


def test_a_missing_chip_name_is_a_config_error(source: ModelSource) -> None:
    with pytest.raises(ConfigError, match=r"npu\.soc is not set.*ray start --labels soc="):
        compile_model(source, replace(OM, target=""))


def test_fixed_shapes_need_a_profile_of_fixed_size() -> None:
    for profile in ("modelzoo", "uint8"):
        assert fixed_input(compile_spec("ascend", "f16", profile)) == (368, 640)
        sized = compile_spec("ascend", "f16", profile, input_size=InputSize(256, 456))
        assert fixed_input(sized) == (256, 456)
    with pytest.raises(ConfigError, match="upstream has inputs of any width"):
        fixed_input(compile_spec("ascend", "f16", "upstream"))


def test_calibration_images_are_not_read_for_other_precisions_than_int8(
    source: ModelSource,
) -> None:
    asked: list[int] = []

    def inputs() -> Iterator[npt.NDArray[np.float32]]:
        asked.append(1)
        yield np.zeros((1, 3, 368, 640), np.float32)

    compile_model(source, HALF, Calibration(inputs, "d", 1))
    assert asked == []
