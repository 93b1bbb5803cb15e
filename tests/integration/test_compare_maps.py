"""`compare --maps` computes the maps of two runs again, and names where they differ."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from distributed_pose import evaluate
from tests.conftest import Dataset, Run
from tests.tiny_models import random_model, save_constant_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model of one layer, whose maps are too low for peaks."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    content = onnx.load_model_from_string(random_model(path))
    for tensor in content.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values / np.float32(100), tensor.name))
    onnx.save(content, path)
    return path


@pytest.fixture(scope="module")
def runs(people: Dataset, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of one model by two backends, over all images and over five."""
    folder = tmp_path_factory.mktemp("runs")
    for name, backend, limit in (("ort", "onnxruntime", 12), ("vino", "openvino", 5)):
        own = {"backend": backend, "precision": "f32", "devices": ["cpu"], "gather": "poses"}
        evaluate(people.config(**own, model={"path": model}, data={"limit": limit}), folder / name)
    return folder


def changed(runs: Path, name: str, config: dict[str, str] | None = None, **report: Any) -> Path:
    """Returns a copy of the first run with other fields in its report and configuration."""
    folder = runs / name
    shutil.copytree(runs / "ort", folder, dirs_exist_ok=True)
    content = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(content | report))
    text = (folder / "config.yaml").read_text()
    for before, after in (config or {}).items():
        assert before in text
        text = text.replace(before, after)
    (folder / "config.yaml").write_text(text)
    return folder


def test_two_backends_of_one_model_have_the_same_maps_but_for_rounding(
    run: Run, runs: Path
) -> None:
    folders = [str(runs / name) for name in ("ort", "vino", "ort")]
    code, out, err = run("compare", *folders, "--maps=9", "--json")
    assert code == 0, err
    (other,), (same,) = (one["maps"] for one in json.loads(out)["comparisons"])
    # The second run has five images.
    assert (other["images"], same["images"]) == (5, 5)
    assert other["first"]["backend"] == "onnxruntime:cpu"
    assert (other["second"]["backend"], other["second"]["precision"]) == ("openvino", "f32")
    assert len(other["outputs"]) == 38
    worst = other["outputs"][0]
    assert worst["range"] > 0.001
    assert worst["relative"] < 1e-4
    assert {one["largest"] for one in same["outputs"]} == {0}


def test_every_device_of_other_backend_or_precision_is_compared_with_the_first(
    run: Run, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = json.loads((runs / "ort" / "report.json").read_text())["devices"][0]
    vino = json.loads((runs / "vino" / "report.json").read_text())["devices"][0]
    named = [{**one, "name": f"cpu:{n}"} for n, one in enumerate([first, first, vino])]
    lacking = {**first, "name": "cuda:0", "kind": "cuda", "backend": "onnxruntime:cuda"}
    mixed = changed(runs, "mixed", devices=[*named, lacking])
    folders = [str(folder) for folder in (mixed, runs / "vino", mixed)]
    code, out, err = run("compare", *folders, "--maps=2", "--json")
    assert code == 0, err
    assert caplog.text.count("cuda:0 is not compared") == 2
    comparisons = [one["maps"] for one in json.loads(out)["comparisons"]]
    assert {tuple(one["first"]["names"]) for maps in comparisons for one in maps} == {
        ("cpu:0", "cpu:1")
    }
    assert [[one["second"]["names"] for one in maps] for maps in comparisons] == [
        [["cpu:2"], ["cpu:0"]],
        [["cpu:0", "cpu:1"], ["cpu:2"]],
    ]
    largest = [[max(o["largest"] for o in one["outputs"]) for one in maps] for maps in comparisons]
    (own, other), (equal, again) = largest
    assert own == other == again > 0 == equal


def test_the_table_and_the_page_show_the_differences(run: Run, runs: Path) -> None:
    same = [str(runs / "ort")] * 2
    code, out, err = run("compare", *same, "--maps=2", "--html=page.html")
    assert code == 0, err
    assert "Maps of 2 images by onnxruntime:cpu f32" in " ".join(out.split())
    assert "which are equal" in " ".join(out.split())
    assert "which are equal" in Path("page.html").read_text()
    run("compare", str(runs / "ort"), str(runs / "vino"), "--maps=2", "--html=page.html")
    page = Path("page.html").read_text()
    assert "heatmap left wrist" in page
    assert "PAF neck to nose" in page


def test_runs_that_cannot_be_computed_again_are_an_error_of_one_line(
    run: Run, runs: Path, people: Dataset
) -> None:
    first = json.loads((runs / "ort" / "report.json").read_text())
    other = {**first["model"], "sha256": "0" * 64}
    gone = {**first["model"], "path": str(runs / "gone.onnx")}
    gpu = [{**first["devices"][0], "kind": "cuda", "backend": "onnxruntime:cuda"}]
    rounded = [{**first["devices"][0], "precision": "f17"}]
    evaluate(people.config(), runs / "truth")
    cases = [
        (changed(runs, "model", model=other), 2, "runs of different models"),
        (changed(runs, "profile", profile="upstream"), 2, "--maps compares runs of one profile"),
        (changed(runs, "gone", model=gone), 3, "cannot read"),
        (changed(runs, "gpu", devices=gpu), 3, "there is no device cuda:0"),
        (changed(runs, "rounded", devices=rounded), 3, "computes in f32 here, and in the run in"),
        (changed(runs, "none", devices=[]), 3, "its report names no device"),
        (changed(runs, "keys", {"profile: modelzoo": "profil: modelzoo"}), 2, "unknown key"),
        (changed(runs, "text", {"data:": "data: ["}), 3, "is not YAML"),
        (runs / "truth", 2, "different models"),
    ]
    for folder, code, message in cases:
        answer, out, err = run("compare", str(runs / "ort"), str(folder), "--maps=2")
        assert (answer, out) == (code, ""), folder
        assert message in err
        assert str(folder) in err
        assert len(err.splitlines()) == 1
    answer, _, err = run("compare", str(runs / "truth"), str(runs / "truth"), "--maps=2")
    assert answer == 2
    assert "backend oracle runs no model" in err


def test_a_model_that_was_replaced_since_the_run_is_refused(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    path = save_constant_model(tmp_path / "model.onnx", 0.5)
    own = {"backend": "onnxruntime", "devices": ["cpu"], "model": {"path": path}}
    evaluate(people.config(**own, data={"limit": 2}), tmp_path / "run")
    onnx.save(onnx.load(save_constant_model(tmp_path / "other.onnx", 0.25)), path)
    code, out, err = run("compare", "run", "run", "--maps=1")
    assert (code, out) == (3, "")
    assert "is not the model file of the run any more" in err
