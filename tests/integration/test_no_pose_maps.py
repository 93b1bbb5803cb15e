"""Networks whose heatmaps show no poses: their images fail at once, and no process is lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from distributed_pose import RunConfig, evaluate
from distributed_pose.report.run_report import RunReport
from tests.conftest import Dataset, Run
from tests.tiny_models import save_constant_model

REASON = "the heatmaps are not pose heatmaps: more than 1000 candidates of nose"

# Most images of the demo are so large that flat maps exceed the limits; a small one has no poses.
MOST = 10

# The value of every cell; flat maps have candidates everywhere, from rounding alone.
FLAT = 0.2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_constant_model(tmp_path / "flat.onnx", FLAT)


def config(people: Dataset, model: Path, **values: object) -> RunConfig:
    return people.config(backend="onnxruntime:cpu", model={"path": model}, **values)


def check_failed(report: RunReport) -> None:
    assert not report.complete
    assert report.ap is None
    assert len(report.failures) >= MOST
    assert report.num_detections == 0
    reasons = [failure.reason for failure in report.failures]
    assert all(reason.startswith("the heatmaps are not pose heatmaps: ") for reason in reasons)
    assert REASON in reasons
    assert not report.faults.reasons


@pytest.mark.parametrize("gather", ["maps", "poses"])
def test_images_fail_with_the_reason(people: Dataset, model: Path, gather: str) -> None:
    check_failed(evaluate(config(people, model, gather=gather)))


@pytest.mark.parametrize("gather", ["maps", pytest.param("poses", marks=pytest.mark.slow)])
def test_no_actor_of_a_cluster_is_restarted_for_it(
    people: Dataset, model: Path, tmp_path: Path, gather: str
) -> None:
    settings = config(people, model, engine="ray", gather=gather, maps_dtype="f16")
    check_failed(evaluate(settings, tmp_path / "run"))


def test_images_with_poses_keep_their_detections_beside_one_that_fails(
    people: Dataset, tmp_path: Path
) -> None:
    evaluate(people.config(dump_maps=tmp_path / "maps"), tmp_path / "whole")
    name = _flatten_first_image(tmp_path / "maps")
    replay = people.config(
        backend="recorded", model={"path": tmp_path / "maps"}, batch_size=4, allow_failures=1
    )
    report = evaluate(replay, tmp_path / "run")
    assert [
        (failure.file_name.partition(".")[0], failure.reason) for failure in report.failures
    ] == [(name, REASON)]
    before, now = (
        json.loads((tmp_path / folder / "detections.json").read_text())
        for folder in ("whole", "run")
    )
    failed = report.failures[0].image_id
    assert now == [found for found in before if found["image_id"] != failed]
    assert report.ap is not None


def test_the_guides_postprocessing_names_the_image_and_ends_with_exit_code_4(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    evaluate(people.config(dump_maps=tmp_path / "maps"), tmp_path / "run")
    name = _flatten_first_image(tmp_path / "maps")
    maps = tmp_path / "maps"
    files = ("--result-dir", str(maps), "--pad-txt-path", str(maps / "pad.txt"))
    labels = ("--labels", str(people.annotations), "--detections-save-path", "found.json")
    code, _, err = run("guide", "postprocess", *files, *labels)
    assert code == 4
    assert err.strip() == f"error: {name}: {REASON}"


def _flatten_first_image(recording: Path) -> str:
    """Overwrites the heatmaps of a recording's first image; returns the image's name."""
    path = min(recording.glob("*_0.bin"))
    path.write_bytes(np.full(path.stat().st_size // 4, FLAT, "<f4").tobytes())
    return path.name.removesuffix("_0.bin")
