"""Comparisons of runs show figures, intervals, different settings and changed images."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import evaluate
from distributed_pose.report.run_report import RunReport
from distributed_pose.report.timeline import SettledShard, segment_rates, timeline
from tests.chromium import visit
from tests.conftest import Dataset, Run


@pytest.fixture(scope="module")
def first(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over the rendered people, in many small shards."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    evaluate(people.config(), folder)
    return folder


@pytest.fixture(scope="module")
def worse(first: Path) -> Path:
    """A run in which the people of one image are lost, on another version of NumPy."""
    folder = first.parent / "worse"
    shutil.copytree(first, folder)
    detections = json.loads((folder / "detections.json").read_text())
    lost = detections[0]["image_id"]
    kept = [one for one in detections if one["image_id"] != lost]
    (folder / "detections.json").write_text(json.dumps(kept))
    report = json.loads((folder / "report.json").read_text())
    report["versions"]["numpy"] = "1.26.4"
    (folder / "report.json").write_text(json.dumps(report))
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("gather: maps", "gather: poses"))
    return folder


def compared(run: Run, *folders: Path) -> list[dict[str, Any]]:
    code, out, err = run("compare", *map(str, folders), "--json")
    assert code == 0, err
    comparisons: list[dict[str, Any]] = json.loads(out)["comparisons"]
    return comparisons


def test_a_run_compared_with_itself_differs_in_nothing(run: Run, first: Path) -> None:
    (comparison,) = compared(run, first, first)
    interval = comparison["ap_difference"]
    assert (interval["low"], interval["value"], interval["high"]) == (0, 0, 0)
    assert interval["resamplings"] > 900
    assert comparison["throughput_ratio"] == 1
    assert not comparison["settings"]
    assert not comparison["versions"]
    assert not comparison["images"]


def test_two_runs_of_the_same_model_cover_0(
    run: Run, people: Dataset, first: Path, tmp_path: Path
) -> None:
    evaluate(people.config(batch_size=4), tmp_path / "second")
    (comparison,) = compared(run, first, tmp_path / "second")
    interval = comparison["ap_difference"]
    assert interval["low"] <= 0 <= interval["high"]
    assert [one["name"] for one in comparison["settings"]] == ["batch_size", "batch size in use"]


def test_runs_of_other_keypoint_sets_have_no_difference_of_ap(
    run: Run, people: Dataset, first: Path, tmp_path: Path
) -> None:
    text = (files("distributed_pose.keypoints") / "coco_body.yaml").read_text()
    (tmp_path / "wide.yaml").write_text(
        text.replace("name: coco_body", "name: wide").replace("nose: 0.02", "nose: 0.2")
    )
    second = tmp_path / "second"
    evaluate(people.config(keypoints=tmp_path / "wide.yaml"), second)
    assert RunReport.load(second).keypoints.sigmas[0] > 0.2
    (comparison,) = compared(run, first, second)
    assert comparison["ap_difference"] is None
    assert comparison["unavailable"] == "the runs have other keypoint sets: coco_body and wide"
    names = {one["name"] for one in comparison["settings"]}
    assert "keypoints in use" in names
    code, out, _ = run("report", str(second))
    assert code == 0
    assert "keypoints wide" in out
    report = json.loads((second / "report.json").read_text())
    del report["keypoints"]["sigmas"][0]
    (second / "report.json").write_text(json.dumps(report))
    code, _, err = run("report", str(second))
    assert code == 3
    assert "do not fit together" in " ".join(err.split())


def test_worse_figures_and_different_settings_are_named(run: Run, first: Path, worse: Path) -> None:
    (comparison,) = compared(run, first, worse)
    lost = json.loads((first / "detections.json").read_text())[0]["image_id"]
    assert [one["image_id"] for one in comparison["images"]] == [lost]
    assert comparison["ap_difference"]["value"] < 0
    assert comparison["errors"][0]["name"] == "missed_people"
    assert [(one["name"], one["second"]) for one in comparison["versions"]] == [
        ("driver: numpy", "1.26.4")
    ]
    assert [(one["name"], one["second"]) for one in comparison["settings"]] == [("gather", "poses")]
    code, out, _ = run("compare", str(first), str(worse))
    assert code == 0
    assert "missed people" in out
    assert "within chance" in out or "more than chance" in out


def test_several_runs_are_compared_with_the_first(run: Run, first: Path, worse: Path) -> None:
    comparisons = compared(run, first, worse, first)
    assert [one["second"] for one in comparisons] == [str(worse), str(first)]
    assert {one["first"] for one in comparisons} == {str(first)}


def test_the_page_of_a_comparison_shows_the_changed_images_and_needs_no_network(
    run: Run, first: Path, worse: Path, tmp_path: Path
) -> None:
    assert run("compare", str(first), str(worse), "--html", "page.html")[0] == 0
    page = Path("page.html").read_text()
    assert page.count("data:image/jpeg") == 3
    seen = visit(Path("page.html"), tmp_path / "profile")
    assert (seen.console, seen.requests) == ([], set())
    assert "driver: numpy" in seen.dom


def test_runs_over_other_images_are_compared_in_throughput_only(
    run: Run, people: Dataset, first: Path, tmp_path: Path
) -> None:
    evaluate(people.config(data={"limit": 5}), tmp_path / "part")
    (comparison,) = compared(run, first, tmp_path / "part")
    assert comparison["ap_difference"] is None
    assert comparison["unavailable"] == "the runs have other images: 12 and 5"
    assert comparison["throughput_ratio"] > 0
    code, out, _ = run("compare", str(first), str(tmp_path / "part"), "--html", "page.html")
    assert code == 0
    assert "AP is not compared" in out
    assert "AP is not compared" in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "RUN"),
        (("run",), 2, "one run"),
        (("run", "nowhere"), 3, "nowhere"),
        (("run", "run", "--html", "run/detections.json"), 2, "would be overwritten"),
    ],
)
def test_runs_that_cannot_be_compared_are_an_error_of_one_line(
    run: Run, first: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    shutil.copytree(first, "run")
    answer, out, err = run("compare", *arguments)
    assert (answer, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1


def shards(session: str, device: str, times: list[float]) -> list[SettledShard]:
    stages = {"compute": 1_000_000}
    return [
        SettledShard(session=session, device=device, elapsed_s=at, images=2, stage_ns=stages)
        for at in times
    ]


def test_the_timeline_spreads_images_over_time_and_ends_a_failed_device_early() -> None:
    steady = [float(second) for second in range(1, 61)]
    line = timeline([*shards("a", "cpu:0", steady), *shards("a", "cpu:1", steady[:30])])
    assert line is not None
    assert line.images_per_s["cpu:0"] == pytest.approx([2.0] * 60)
    assert line.images_per_s["cpu:1"] == pytest.approx([2.0] * 30 + [0.0] * 30)
    assert line.stage_ms["compute"] == pytest.approx([0.5] * 60)
    assert line.last_s == {"cpu:0": 60.0, "cpu:1": 30.0}


def test_sessions_follow_each_other_and_rates_are_those_of_all_devices() -> None:
    steady = [float(second) for second in range(1, 31)]
    both = [*shards("a", "cpu:0", steady), *shards("b", "cpu:0", steady)]
    line = timeline(both)
    assert line is not None
    assert (line.num_sessions, line.edges_s[-1]) == (2, 60)
    assert segment_rates(both) == pytest.approx([2.0] * 20)
    assert segment_rates([]) == []
    assert timeline([]) is None
