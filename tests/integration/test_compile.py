"""Models are compiled to artifacts and run, with fakes of the vendors' tools."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
from typer.testing import CliRunner

from distributed_pose import ConfigError, SetupError
from distributed_pose.backends.registry import compile_spec
from distributed_pose.cli.main import app
from distributed_pose.demo.dataset import write_dataset
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.evaluation import evaluate
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.compile import portable
from tests.clusters import two_nodes
from tests.conftest import Dataset
from tests.fakes.ascend import FOLDER, install_cann
from tests.int8_models import needs_int8, needs_nncf, small_network
from tests.tiny_models import save_constant_model

# Only a few, since the demo's network takes a tenth of a second per image.
IMAGES = {"limit": 5}


# The guide's command except for batch and chip.
ATC = (
    "atc --framework=5 --model=M.onnx --output=M_bs{} --input_format=NCHW "
    "--input_shape=data:{},3,368,640 --log=error"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network as ONNX."""
    order = compile_spec("onnxruntime:cpu", "auto", "modelzoo")
    path = tmp_path_factory.mktemp("model") / "demo.onnx"
    path.write_bytes(portable(load_source(WEIGHTS), order).content)
    return path


@pytest.fixture(scope="module")
def cann(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file with a line for each run of the fake of CANN's compiler."""
    folder = tmp_path_factory.mktemp("cann")
    installed = install_cann(folder / "Ascend")
    # The compiled decoder is not tested here, and compiling it takes long.
    kept = Path(platformdirs.user_cache_dir("distributed_pose")) / "kernels"
    kept.mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "distributed_pose").mkdir(parents=True)
    (folder / "cache" / "distributed_pose" / "kernels").symlink_to(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASCEND_TOOLKIT_HOME", str(installed.home))
        patch.setenv("PATH", str(installed.python), prepend=os.pathsep)
        # The folder of the fakes of `acl` and `ais_bench`.
        patch.setenv("PYTHONPATH", str(FOLDER), prepend=os.pathsep)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield installed.log


@pytest.fixture(scope="module")
def npus(cann: Path) -> Iterator[Path]:
    """Two nodes with one NPU each, and CANN."""
    with two_nodes(npus=1, cpus=1):
        yield cann


def command(*arguments: object) -> str:
    answer = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.stdout


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["ascend310"], [f"{ATC.format(1, 1)} --soc_version=Ascend310"]),
        (
            ["ascend310p3", "--batch", "1,4"],
            [f"{ATC.format(size, size)} --soc_version=Ascend310P3" for size in (1, 4)],
        ),
        (
            ["ascend310p3", "--batch", "1,2,4,8", "--dynamic-batch"],
            [f"{ATC.format('1_2_4_8', -1)} --soc_version=Ascend310P3 --dynamic_batch_size=1,2,4,8"],
        ),
        (["tensorrt"], ["trtexec --onnx=M.onnx --fp16 --shapes=data:1x3x368x640"]),
    ],
)
def test_the_vendors_commands_are_those_of_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_constant_model(Path("M.onnx"))
    printed = command("compile", "M.onnx", "--for", *options, "--dry-run").splitlines()
    if options[0].startswith("ascend"):
        assert printed[0].startswith("unset PYTHONPATH PYTHONHOME")
        assert re.fullmatch(
            r"source /\S+/ascend-toolkit/set_env\.sh(  # CANN 5\.1 or newer)?", printed[1]
        )
        printed = printed[2:]
    assert printed == expected


def test_the_guides_aipp_text_comes_before_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_constant_model(Path("M.onnx"))
    printed = command("compile", "M.onnx", "--for", "ascend310", "--profile", "uint8", "--dry-run")
    text, _, last = printed.partition("\nEND\n")
    assert "\ncat > aipp.cfg <<'END'\naipp_op {\n" in text
    assert text.count(": 0.00390625") == text.count("mean_chn_") == 3
    assert last.endswith("--soc_version=Ascend310 --insert_op_conf=aipp.cfg\n")


def test_precision_and_profile_are_those_of_the_configuration_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_constant_model(Path("M.onnx"))
    Path("run.yaml").write_text("profile: uint8\nprecision: f16\n")
    start = ["compile", "M.onnx", "--config", "run.yaml", "--dry-run", "--for"]
    assert "aipp" in command(*start, "ascend310")
    assert "aipp" not in command(*start, "ascend310", "--profile", "modelzoo")
    options = ["--set", "profile=modelzoo", "--set", "precision=f32"]
    assert "--noTF32" in command(*start, "tensorrt", *options)
    assert "--fp16" in command(*start, "tensorrt", *options, "--precision", "f16")


def test_an_engine_for_several_sizes_also_takes_single_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_constant_model(Path("M.onnx"))
    printed = command(
        "compile", "M.onnx", "--for", "tensorrt", "--batch", "4,8", "--dynamic-batch", "--dry-run"
    )
    assert "--minShapes=data:1x3x368x640" in printed
    assert "--maxShapes=data:8x3x368x640" in printed


def test_a_checkpoint_is_exported_before_the_vendors_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    shutil.copy(WEIGHTS, "a/b.pth")
    printed = command("compile", "a/b.pth", "--for", "ascend310", "--dry-run").splitlines()
    assert printed[0] == "distributed-pose export a/b.pth a/b.onnx"
    assert "--model=a/b.onnx" in printed[-1]


def test_a_target_that_a_library_compiles_has_no_command_to_print(tmp_path: Path) -> None:
    path = save_constant_model(tmp_path / "M.onnx")
    with pytest.raises(ConfigError, match="openvino is compiled by a library"):
        command("compile", path, "--for", "openvino", "--dry-run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--for", "tpu"], "no such target.*known: .*tensorrt, .*ascendSOC, such as ascend310p3"),
        (["--for", "ascendx"], "x is not an Ascend chip"),
        (["--for", "cuda", "--precision", "int8"], "precision: int8 is not available"),
        (["--for", "onnxruntime", "--precision", "int8"], "none is converted for it"),
        (["--for", "onnxruntime", "--precision", "f16"], "none is converted for it"),
        (["--for", "ascend310", "--profile", "upstream"], "inputs of any width"),
        (["--for", "ascend310", "--batch", "1,x"], "--batch 1,x: expected counts"),
        (["--for", "ascend310", "--batch", "0"], "--batch 0: expected counts"),
        (["--for", "tensorrt", "--profile", "uint8", "--dry-run"], "normalises by itself"),
    ],
)
def test_a_target_that_cannot_be_compiled_for_is_a_config_error(
    tmp_path: Path, options: list[str], message: str
) -> None:
    path = save_constant_model(tmp_path / "M.onnx")
    with pytest.raises(ConfigError, match=message):
        command("compile", path, *options)


def test_without_the_vendors_compiler_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = save_constant_model(tmp_path / "M.onnx")
    with pytest.raises(SetupError, match=r"atc.*CANN is missing; found: none.*--dry-run"):
        command("compile", path, "--for", "ascend310p3")


def test_data_without_annotations_is_not_completed_by_the_demo(tmp_path: Path) -> None:
    path = save_constant_model(tmp_path / "M.onnx")
    options = ["--for", "openvino", "--precision", "int8", "--set", f"data.images={tmp_path}"]
    with pytest.raises(ConfigError, match=r"data\.annotations is not set"):
        command("compile", path, *options)


@pytest.mark.slow
@needs_nncf
@needs_int8
def test_a_broken_image_counts_equally_for_int8_and_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    written = write_dataset(tmp_path / "data", 3, seed=1)
    next(written.images.iterdir()).write_bytes(b"no picture")
    model = tmp_path / "small.onnx"
    model.write_bytes(small_network())
    data = {"data.images": written.images, "data.annotations": written.annotations}
    keys = [w for key, value in data.items() for w in ("--set", f"{key}={value}")]
    options = ["--for", "openvino", "--precision", "int8", "--set", "engine=inline", *keys]
    printed = command("compile", model, *options, "--output", tmp_path / "out")
    assert "images 3, f32 " in printed


def test_an_artifact_is_made_once_and_its_card_describes_how(
    model: Path, cann: Path, tmp_path: Path
) -> None:
    before = len(lines(cann))
    options = ["--for", "ascend310p3", "--batch", "1,4", "--profile", "uint8"]
    first = command("compile", model, *options, "--output", tmp_path)
    second = command("compile", model, *options, "--output", tmp_path)
    assert first == second
    assert len(lines(cann)) - before == 2
    oms = sorted(path.name for path in tmp_path.glob("*.om"))
    assert oms == ["demo_Ascend310P3_bs1.om", "demo_Ascend310P3_bs4.om"]
    card = json.loads((tmp_path / "demo_Ascend310P3_bs4.json").read_text())
    assert (card["backend"], card["target"], card["precision"]) == ("ascend", "Ascend310P3", "f16")
    assert (card["batch_sizes"], card["profile"]) == ([4], "uint8")
    assert [port["name"] for port in card["inputs"]] == ["data"]
    assert [port["shape"][1] for port in card["outputs"]] == [19, 38]
    assert "--input_shape=data:4,3,368,640" in card["command"]
    assert card["bytes"] == (tmp_path / oms[1]).stat().st_size
    assert card["seconds"] > 0
    assert card["source"]["file"] == "demo.onnx"


@pytest.mark.parametrize("profile", ["modelzoo", pytest.param("uint8", marks=pytest.mark.slow)])
def test_npus_return_the_poses_of_the_cpu_and_the_model_is_compiled_once(
    people: Dataset, model: Path, npus: Path, tmp_path: Path, profile: str
) -> None:
    before = len(lines(npus))
    values = {"model": {"path": model}, "data": IMAGES, "profile": profile, "batch_size": 2}
    on_npus = people.config(engine="ray", devices="npu:*", **{**values, "backend": "ascend"})
    report = evaluate(on_npus, tmp_path / "npus")
    cpu = people.config(**{**values, "backend": "onnxruntime", "precision": "f32"})
    evaluate(cpu, tmp_path / "cpu")
    found, expected = (
        json.loads((tmp_path / name / "detections.json").read_text()) for name in ("npus", "cpu")
    )
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        # Half precision may move a peak to the next pixel.
        assert one["keypoints"] == pytest.approx(other["keypoints"], abs=1.0)
    assert [line.count("--input_shape=data:2,") for line in lines(npus)[before:]] == [1]
    assert ("--insert_op_conf" in lines(npus)[-1]) is (profile == "uint8")
    assert {(d.backend, d.precision, d.description) for d in report.devices} == {
        ("ascend", "f16", "Ascend310P3")
    }
    assert report.compile_s > 0


@pytest.mark.slow
@pytest.mark.usefixtures("npus")
def test_an_om_is_run_unchanged(people: Dataset, model: Path, tmp_path: Path) -> None:
    command("compile", model, "--for", "ascend310p3", "--batch", 4, "--output", tmp_path)
    (path,) = tmp_path.glob("*.om")
    values = {"model": {"path": path}, "data": IMAGES, "batch_size": 4, "engine": "ray"}
    report = evaluate(people.config(devices="npu:*", backend="ascend-ais", **values))
    assert report.complete
    assert {device.backend for device in report.devices} == {"ascend-ais"}
    with pytest.raises(SetupError, match="compiled for Ascend, and backend openvino cannot"):
        evaluate(people.config(devices="cpu", backend="openvino", **values))


@pytest.mark.usefixtures("npus")
def test_a_chip_that_the_compiler_does_not_support_is_a_setup_error_that_names_the_device(
    people: Dataset, model: Path
) -> None:
    values = {"model": {"path": model}, "data": IMAGES, "engine": "ray", "devices": "npu:*"}
    with pytest.raises(SetupError, match="f16 only"):
        evaluate(people.config(backend="ascend", precision="f32", **values))
    with pytest.raises(ConfigError, match=r"inputs of any width.*profile=modelzoo"):
        evaluate(people.config(backend="ascend", profile="upstream", **values))


@pytest.mark.slow
def test_pytorch_returns_the_poses_of_onnx_runtime(people: Dataset, tmp_path: Path) -> None:
    values = {"model": {"path": WEIGHTS}, "data": {"limit": 2}, "batch_size": 2}
    for name in ("torch", "onnxruntime"):
        evaluate(people.config(**{**values, "backend": name}), tmp_path / name)
    found, expected = (
        json.loads((tmp_path / name / "detections.json").read_text())
        for name in ("torch", "onnxruntime")
    )
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one["keypoints"] == pytest.approx(other["keypoints"], abs=1)


def test_pytorch_runs_only_checkpoints(people: Dataset, tmp_path: Path) -> None:
    path = save_constant_model(tmp_path / "model.onnx")
    with pytest.raises(SetupError, match=r"runs checkpoints .*model\.onnx is ONNX"):
        evaluate(people.config(backend="torch", model={"path": path}))


def test_a_damaged_artifact_in_the_cache_is_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command("compile", model, "--for", "cuda")
    (artifact,) = tmp_path.rglob("artifact")
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[:-1])
    command("compile", model, "--for", "cuda")
    assert artifact.read_bytes() == whole
    shutil.rmtree(tmp_path / "distributed_pose")
