"""A snapshot of training with three refinement stages, through every route that takes a model."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import platformdirs
import pytest
from typer.testing import CliRunner

from distributed_pose import ConfigError, SetupError, evaluate
from distributed_pose.backends.registry import compile_spec
from distributed_pose.cli.main import app
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.checkpoint import load_checkpoint
from distributed_pose.model.compile import cache_name, compile_model, portable
from distributed_pose.model.export import export_onnx
from tests.checkpoints import demo_state, saved, snapshot, three_stages
from tests.conftest import Dataset, Run
from tests.fakes.ascend import install_cann

# Only a few, since the network takes a tenth of a second per image.
IMAGES = {"limit": 2}

LATER = ["refinement_stages.1", "refinement_stages.2"]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A separate cache, since legacy files are new models each time they are written."""
    folder = tmp_path_factory.mktemp("cache")
    kernels = Path(platformdirs.user_cache_dir("distributed_pose")) / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (folder / "distributed_pose").mkdir()
    # The compiled decoder is not tested here, and compiling it takes long.
    (folder / "distributed_pose" / "kernels").symlink_to(kernels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A legacy file of the demo's weights, as the reference's train.py saves it."""
    path = tmp_path_factory.mktemp("published") / "checkpoint_iter_370000.pth.tar"
    path.write_bytes(saved(snapshot(three_stages(demo_state())), zipped=False))
    return path


@pytest.fixture(scope="module")
def direct(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of three stages as ONNX with the outputs of all of them."""
    path = tmp_path_factory.mktemp("direct") / "three.onnx"
    weights = load_checkpoint(published.read_bytes(), str(published), 3).weights
    path.write_bytes(export_onnx(weights, refinement_stages=3))
    return path


def detections(dataset: Dataset, folder: Path, model: dict[str, Any], **values: Any) -> bytes:
    values = {"backend": "onnxruntime", "precision": "f32", "data": IMAGES, **values}
    evaluate(dataset.config(model=model, **values), folder)
    return (folder / "detections.json").read_bytes()


def command(*arguments: object) -> tuple[str, str]:
    answer = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.stdout, answer.stderr


@pytest.mark.slow
def test_one_stage_of_three_gives_the_network_of_one_stage_and_three_that_of_three(
    people: Dataset, published: Path, direct: Path, tmp_path: Path
) -> None:
    one = detections(people, tmp_path / "1", {"path": published})
    three = detections(people, tmp_path / "3", {"path": published, "refinement_stages": 3})
    assert one == detections(people, tmp_path / "demo", {"path": WEIGHTS})
    assert three == detections(people, tmp_path / "direct", {"path": direct})
    assert len(json.loads(one)) > 0
    assert one != three


def test_unused_stages_are_named_in_one_line_and_in_the_report(
    run: Run, people: Dataset, published: Path, tmp_path: Path
) -> None:
    keys = {
        "data.images": people.images,
        "data.annotations": people.annotations,
        "data.limit": 1,
        "model.path": published,
        "backend": "onnxruntime",
        "engine": "inline",
    }
    options = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    code, out, _ = run("evaluate", *options, "--output", str(tmp_path / "run"))
    assert code == 0
    (line,) = (line for line in out.splitlines() if "Checkpoint: " in line)
    assert "1 of 3 refinement stages used, the others are left out" in line
    model = json.loads((tmp_path / "run" / "report.json").read_text())["model"]
    assert model["refinement_stages"] == 1
    assert model["unused"] == [*LATER, "optimizer", "scheduler", "iter", "current_epoch"]
    assert model["notes"] == [line.strip()]


def test_a_run_is_not_resumed_with_another_number_of_stages(
    people: Dataset, published: Path, tmp_path: Path
) -> None:
    detections(people, tmp_path, {"path": published}, data={"limit": 1})
    with pytest.raises(SetupError, match=r"model\.refinement_stages"):
        detections(people, tmp_path, {"path": published, "refinement_stages": 2}, data={"limit": 1})


@pytest.mark.parametrize("backend", ["onnxruntime:cpu", "onnxruntime:cuda", "torch:cpu", "ascend"])
def test_artifacts_in_the_cache_differ_by_the_number_of_stages(
    published: Path, backend: str
) -> None:
    order = compile_spec(
        backend, "f16" if backend != "torch:cpu" else "f32", "modelzoo", (1,), "Ascend310"
    )
    sources = [load_source(published, stages) for stages in (1, 2, 3)]
    names = {cache_name(portable(source, order), order) for source in sources}
    assert len(names) == 3


def test_the_card_of_an_artifact_has_the_stages_of_its_checkpoint(published: Path) -> None:
    order = compile_spec("onnxruntime:cpu", "f32", "modelzoo")
    card = compile_model(portable(load_source(published, 2), order), order).card
    assert card["source"]["refinement_stages"] == 2
    assert [port["name"] for port in card["outputs"]] == [
        "stage_2_output_1_heatmaps",
        "stage_2_output_0_pafs",
    ]


@pytest.mark.parametrize("backend", ["oracle", "simulated:t4"])
def test_stages_without_a_checkpoint_are_a_config_error(people: Dataset, backend: str) -> None:
    config = people.config(backend=backend, model={"refinement_stages": 2})
    with pytest.raises(
        ConfigError, match=r"refinement_stages=2 applies only to checkpoints, and the gro"
    ):
        evaluate(config)


def test_more_stages_than_a_file_has_are_refused_before_a_device_starts(people: Dataset) -> None:
    config = people.config(
        backend="onnxruntime", engine="ray", model={"path": WEIGHTS, "refinement_stages": 3}
    )
    with pytest.raises(SetupError, match=r"has 1 refinement stage, and .* asks for 3"):
        evaluate(config)


@pytest.mark.slow
def test_pytorch_runs_as_many_stages(
    people: Dataset, published: Path, direct: Path, tmp_path: Path
) -> None:
    values = {"data": {"limit": 1}, "batch_size": 1}
    model = {"path": published, "refinement_stages": 3}
    found = detections(people, tmp_path / "torch", model, **values, backend="torch:cpu")
    expected = detections(people, tmp_path / "onnx", {"path": direct}, **values)
    assert len(json.loads(found)) == len(json.loads(expected)) > 0
    for one, other in zip(json.loads(found), json.loads(expected), strict=True):
        assert one["keypoints"] == pytest.approx(other["keypoints"], abs=1)


@pytest.mark.parametrize("last_stage", [False, True])
def test_an_export_has_the_outputs_of_all_stages_or_of_the_last(
    published: Path, tmp_path: Path, *, last_stage: bool
) -> None:
    path = tmp_path / "three.onnx"
    options = ["--last-stage"] if last_stage else []
    out, err = command("export", published, path, "--refinement-stages", 3, *options)
    assert f"Written to {path}" in out
    assert not err
    names = [port.name for port in onnx.load(path).graph.output]
    stages = [3] if last_stage else [0, 1, 2, 3]
    kinds = ("output_1_heatmaps", "output_0_pafs")
    assert names == [f"stage_{stage}_{kind}" for stage in stages for kind in kinds]


def test_an_onnx_file_is_not_exported(direct: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"three\.onnx is not a checkpoint"):
        command("export", direct, tmp_path / "again.onnx")


@pytest.mark.parametrize(
    ("name", "onnx", "om"),
    [
        ("checkpoint_iter_5.pth.tar", "checkpoint_iter_5.onnx", "checkpoint_iter_5_bs1"),
        ("a.CKPT", "a.onnx", "a_bs1"),
        ("weights", "weights.onnx", "weights_bs1"),
        ("v1.2", "v1.2.onnx", "v1.2_bs1"),
        ("odd.onnx", "odd_exported.onnx", "odd_exported_bs1"),
        ("my 'best'.pt", "\"my 'best'.onnx\"", "'my '\"'\"'best'\"'\"'_bs1'"),
    ],
)
def test_commands_for_another_machine_have_the_stages_and_fitting_names(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, onnx: str, om: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(published.read_bytes())
    options = ["--for", "ascend310", "--dry-run", "--set", "model.refinement_stages=3"]
    export, *_, atc = command("compile", name, *options)[0].splitlines()
    exported, compiled = shlex.split(onnx)[0], shlex.split(om)[0]
    words = ["distributed-pose", "export", name, exported, "--refinement-stages", "3"]
    assert shlex.split(export) == words
    assert f"--model={exported}" in shlex.split(atc)
    assert f"--output={compiled}" in shlex.split(atc)


@pytest.fixture
def cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake of CANN's compiler."""
    installed = install_cann(tmp_path / "Ascend")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(installed.home))
    monkeypatch.setenv("PATH", str(installed.python), prepend=os.pathsep)


@pytest.mark.usefixtures("cann")
def test_an_om_of_a_checkpoint_is_named_by_it_and_has_its_last_stage(
    published: Path, tmp_path: Path
) -> None:
    options = ["--for", "ascend310p3", "--set", "model.refinement_stages=2"]
    _, err = command("compile", published, *options, "--output", tmp_path)
    assert "Checkpoint: 2 of 3 refinement stages used, the others are left out." in err
    card = json.loads((tmp_path / "checkpoint_iter_370000_Ascend310P3_bs1.json").read_text())
    assert (tmp_path / "checkpoint_iter_370000_Ascend310P3_bs1.om").stat().st_size > 0
    assert card["source"]["refinement_stages"] == 2
    assert [port["name"][:8] for port in card["outputs"]] == ["stage_2_"] * 2


@pytest.mark.slow
def test_the_whole_demo_is_the_same_from_a_snapshot_of_three_stages(
    published: Path, direct: Path, tmp_path: Path
) -> None:
    from distributed_pose.demo.default import prepare_demo

    demo = prepare_demo()
    dataset = Dataset(demo.images, demo.annotations)
    models: dict[str, dict[str, Any]] = {
        "demo": {"path": WEIGHTS},
        "one": {"path": published},
        "three": {"path": published, "refinement_stages": 3},
        "direct": {"path": direct},
    }
    found = {
        name: detections(dataset, tmp_path / name, model, data={}) for name, model in models.items()
    }
    assert found["one"] == found["demo"] != found["three"] == found["direct"]
