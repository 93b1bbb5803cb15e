"""Finished runs are logged to trackers, here to the real ones where they are installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distributed_pose import ConfigError, SetupError, evaluate
from distributed_pose.locations import Location
from distributed_pose.packages import is_installed
from distributed_pose.report.run_report import RunReport
from distributed_pose.tracking.hook import tracked_run
from tests.conftest import Dataset
from tests.plugins import install

PROJECT = """\
[project]
name = "toy-trackers"
version = "1.0"

[project.entry-points."distributed_pose.trackers"]
notes = "toy_trackers:NOTES"
broken = "toy_trackers:BROKEN"
"""

MODULE = """\
import json
from pathlib import Path
from distributed_pose.tracking.base import Tracker

NOTES = Tracker(module="json", install="", log="toy_trackers:note")
BROKEN = Tracker(module="json", install="", log="toy_trackers:fail")

def note(run):
    found = {"name": run.name, "metrics": run.metrics, "parameters": run.parameters}
    Path(run.folder, "notes.json").write_text(json.dumps(found))

def fail(run):
    raise ConnectionError("http://user:secret@tracker is gone\\nfor good")
"""

# Prints what MLflow's own client finds in its store.
READ_MLFLOW = """\
import json
from mlflow import MlflowClient
client = MlflowClient()
(run,) = client.search_runs(["0"])
print(json.dumps({
    "name": run.info.run_name,
    "status": run.info.status,
    "metrics": run.data.metrics,
    "parameters": run.data.params,
    "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
}))
"""


def python(*words: str, folder: Path, **variables: str) -> tuple[str, str]:
    """Returns the output of a Python process."""
    answer = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout, answer.stderr


def command(people: Dataset, *trackers: str) -> tuple[str, ...]:
    settings = {
        "data.images": people.images,
        "data.annotations": people.annotations,
        "backend": "oracle",
        "engine": "inline",
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    words += [word for name in trackers for word in ("--track", name)]
    return ("-m", "distributed_pose", "evaluate", *words, "--label", "nightly 7", "--output", "run")


def test_the_record_has_parameters_figures_and_files(people: Dataset, tmp_path: Path) -> None:
    config = people.config(label="nightly 7", batch_size=3)
    report = evaluate(config, tmp_path / "run")
    found = tracked_run(config, report, Location(tmp_path / "run"))
    assert (found.name, found.folder) == ("nightly 7", tmp_path / "run")
    assert (found.parameters["batch_size"], found.parameters["data.limit"]) == ("3", "None")
    assert found.parameters["audit.code"] == report.audit.code
    assert report.ap
    assert found.metrics["AP"] == report.ap["AP"]
    assert found.metrics["device/cpu:0/images"] == report.num_images
    assert found.metrics["wall_images_per_s"] == report.throughput.wall_images_per_s
    assert {name for name, value in report.ap.items() if value == -1}.isdisjoint(found.metrics)
    assert "images_per_joule" not in found.metrics
    assert found.files["report.json"] == report.to_json()
    assert found.files["config.yaml"] == (tmp_path / "run" / "config.yaml").read_text()


def test_a_run_in_an_object_store_has_no_folder_and_the_name_of_its_prefix(
    people: Dataset,
) -> None:
    config = people.config()
    found = tracked_run(config, evaluate(config), Location("s3://bucket/runs/7/"))
    assert (found.name, found.folder) == ("7", None)


def test_an_unknown_tracker_is_an_error_before_the_run(people: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"there is no tracker mlfow .*mlflow, tensorboard"):
        evaluate(people.config(track="mlfow"))


@pytest.mark.skipif(is_installed("wandb"), reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_an_error_before_the_run(people: Dataset) -> None:
    with pytest.raises(SetupError, match=r"pip install 'distributed-pose\[wandb\]'"):
        evaluate(people.config(track="wandb"))


def test_trackers_of_other_packages_log_and_one_that_fails_is_a_warning(
    people: Dataset, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "toy_trackers.py").write_text(MODULE)
    install(project, tmp_path / "packages")
    variables = {"PYTHONPATH": str(tmp_path / "packages")}
    words = command(people, "broken", "notes")
    _, error = python(*words, folder=tmp_path, **variables)
    (line,) = (line for line in error.splitlines() if "broken" in line)
    assert "broken has no record of this run: http://***@tracker is gone" in line
    assert "secret" not in error
    notes = json.loads((tmp_path / "run" / "notes.json").read_text())
    report = RunReport.load(tmp_path / "run")
    assert (notes["name"], notes["metrics"]["num_images"]) == ("nightly 7", report.num_images)
    assert notes["parameters"]["track"] == "['broken', 'notes']"


def test_tensorboard_reads_the_event_file(people: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.util.tensor_util import make_ndarray

    report = evaluate(people.config(track="tensorboard", label="nightly 7"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()

    def value(name: str) -> object:
        (event,) = events.Tensors(name)
        return make_ndarray(event.tensor_proto).flat[0]

    assert report.ap
    assert value("AP") == pytest.approx(report.ap["AP"], rel=1e-6)
    assert value("num_images") == report.num_images
    assert b'"audit": {' in value("report.json")  # type: ignore[operator]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    data = HParamsPluginData.FromString(content)
    assert data.session_start_info.hparams["backend"].string_value == "oracle"


@pytest.mark.slow
def test_mlflow_has_the_run_in_its_store(people: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    if not is_installed("mlflow"):
        pytest.skip("mlflow is not installed")
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/store.db"}
    _, error = python(*command(people, "mlflow"), folder=tmp_path, **variables)
    assert "no record" not in error
    found = json.loads(python("-c", READ_MLFLOW, folder=tmp_path, **variables)[0])
    report = RunReport.load(tmp_path / "run")
    assert report.ap
    assert (found["name"], found["status"]) == ("nightly 7", "FINISHED")
    assert found["metrics"]["AP"] == report.ap["AP"]
    assert found["metrics"]["device/cpu:0/images"] == report.num_images
    assert found["parameters"]["backend"] == "oracle"
    assert found["files"] == ["config.yaml", "report.json"]


@pytest.mark.slow
def test_wandb_has_the_run_in_its_offline_file(people: Dataset, tmp_path: Path) -> None:
    if not is_installed("wandb"):
        pytest.skip("wandb is not installed")
    variables = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    folders = {name: str(tmp_path) for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")}
    _, error = python(*command(people, "wandb"), folder=tmp_path, **variables, **folders)
    assert "no record" not in error
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for text in ("nightly 7", "backend", "wall_images_per_s", "device/cpu:0/images", "report.json"):
        assert text.encode() in content, text
