"""Sweeps with the oracle, whose AP depends on the input size, and with ledgers of known times."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from distributed_pose import SetupError, evaluate
from distributed_pose.bench.sweep.candidate import candidate
from distributed_pose.bench.sweep.flow import run_sweep
from distributed_pose.bench.sweep.plan import SweepPlan
from distributed_pose.bench.sweep.points import SweepPoint, sweep_points
from distributed_pose.bench.sweep.record import SweepRecord
from distributed_pose.bench.sweep.rounds import chosen_images
from distributed_pose.evaluation import Watch
from distributed_pose.files.storage import Folder
from distributed_pose.locations import Location
from distributed_pose.report.run_report import RunReport
from distributed_pose.report.stored_run import read_run
from distributed_pose.run.fingerprint import fingerprint
from distributed_pose.run.inputs import read_inputs
from distributed_pose.run.ledger_files import LedgerFiles
from distributed_pose.run.state import RunState
from tests.conftest import Dataset, Run

# The oracle's AP is 0.24 and 0.95 at these sizes.
COARSE, FINE = "40x72", "96x168"


@contextmanager
def unwatched(_title: str) -> Iterator[Watch]:
    yield lambda _state: None


def plan(
    dataset: Dataset, output: Path, sizes: Sequence[str] = (COARSE, FINE), **values: Any
) -> SweepPlan:
    config = dataset.config(precision="f32")
    points = sweep_points(config, {"input": sizes, "devices": ["cpu:1"]})
    return SweepPlan(config=config, points=points, output=Location(output), **values)


def sweep(*arguments: Any, **values: Any) -> SweepRecord:
    return run_sweep(plan(*arguments, **values), unwatched)


def set_rates(plan: SweepPlan, *rates: float | Sequence[float]) -> None:
    """Rewrites the times in the ledgers of complete runs, as if they had run at these rates.

    A rate is that of all sessions of a point, or one for each of its sessions.
    """
    for point, rate in zip(plan.points, rates, strict=True):
        files = ledger_files(plan, point)
        entries = sorted(files.load(), key=lambda entry: (entry.begun_s, entry.elapsed_ns))
        files.clear()
        sessions = [*dict.fromkeys(entry.session for entry in entries)]
        each = dict(zip(sessions, [rate] * 3 if isinstance(rate, float) else rate, strict=True))
        done = dict.fromkeys(sessions, 0)
        with files:
            for entry in entries:
                done[entry.session] += len(entry.result.image_ids)
                elapsed_s = done[entry.session] / each[entry.session]
                files.add(replace(entry, elapsed_ns=int(1e9 * elapsed_s)))


def ledger_files(plan: SweepPlan, point: SweepPoint) -> LedgerFiles:
    parts = fingerprint(point.config, read_inputs(point.config))
    return LedgerFiles(Folder(plan.folder(point)), parts)


@pytest.fixture(scope="module")
def crowd(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The rendered images eleven times, which are enough for three rounds: 33, 66 and 132."""
    return people.times(11, tmp_path_factory.mktemp("crowd"))


@pytest.fixture(scope="module")
def finished(crowd: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of both sizes in which every point has finished all three rounds."""
    folder = tmp_path_factory.mktemp("finished")
    planned = plan(crowd, folder, ends_early=False)
    ids = [image.image_id for image in crowd.records()]
    for point in planned.points:
        for size in (33, 66, 132):
            one = candidate(point, "", planned.folder(point), None)
            one.run(chosen_images(ids, size), lambda _state: None)
    record = run_sweep(planned, unwatched)
    assert [point.outcome for point in record.points] == ["finished", "finished"]
    return folder


@pytest.fixture
def swept(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of that folder, which a test may change."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("swept"), dirs_exist_ok=True)


def test_each_point_is_an_ordinary_run_and_the_record_has_its_figures(swept: Path) -> None:
    record = json.loads((swept / "sweep.json").read_text())
    assert (record["num_images"], record["complete"]) == (132, True)
    for point, size in zip(record["points"], (COARSE, FINE), strict=True):
        report = RunReport.load(swept / point["name"])
        assert report.ap is not None
        assert (point["ap"], point["input"]) == (report.ap["AP"], size)
        assert point["images_per_s"] == pytest.approx(report.throughput.wall_images_per_s)
        assert point["ap_interval"]["low"] < point["ap"] < point["ap_interval"]["high"]
        assert point["label"] == f"{size} f32"
        assert read_run(swept / point["name"]).precision_recall.ap() == pytest.approx(point["ap"])
    coarse, fine = record["points"]
    assert fine["ap"] > 0.8 > coarse["ap"]
    assert fine["name"] in record["fronts"]["images_per_s"]


def test_a_dominated_point_ends_early_and_says_by_which(crowd: Dataset, swept: Path) -> None:
    planned = plan(crowd, swept)
    set_rates(planned, 50.0, 100.0)
    record = run_sweep(planned, unwatched)
    coarse, fine = record.points
    assert (coarse.outcome, fine.outcome) == ("ended", "finished")
    assert coarse.reason.startswith(f"after 66 images: dominated by {FINE} f32: 2.00 times as fast")
    assert (coarse.images, fine.images) == (66, 132)
    assert record.fronts == {"images_per_s": (fine.name,)}
    assert json.loads((swept / "sweep.json").read_text())["points"][0]["reason"] == coarse.reason


def test_a_faster_point_goes_on_and_both_are_on_the_front(crowd: Dataset, swept: Path) -> None:
    planned = plan(crowd, swept)
    set_rates(planned, 100.0, 50.0)
    record = run_sweep(planned, unwatched)
    coarse, fine = record.points
    assert [point.outcome for point in record.points] == ["finished", "finished"]
    assert record.fronts == {"images_per_s": (fine.name, coarse.name)}
    assert record.best == {}


def test_rates_that_differ_between_sessions_end_no_point(crowd: Dataset, swept: Path) -> None:
    planned = plan(crowd, swept)
    set_rates(planned, (20.0, 80.0, 50.0), (100.0, 100.0, 100.0))
    record = run_sweep(planned, unwatched)
    assert [point.outcome for point in record.points] == ["finished", "finished"]
    assert record.fronts == {"images_per_s": (planned.points[1].name,)}


def test_a_point_below_the_least_ap_leaves_images_out(crowd: Dataset, tmp_path: Path) -> None:
    record = sweep(crowd, tmp_path, min_ap=0.7)
    coarse, fine = record.points
    assert "is below --min-ap 0.7" in coarse.reason
    assert (coarse.evaluated, record.saved_images, fine.evaluated) == (33, 99, 132)
    assert record.saved_s == pytest.approx(99 / (coarse.images_per_s or 0))
    report = RunReport.load(tmp_path / coarse.name)
    assert report.unscored == "the run ended with 33 of 132 images done"
    assert RunReport.load(tmp_path / fine.name).sessions == 3
    resumed = evaluate(plan(crowd, tmp_path).points[0].config, tmp_path / coarse.name)
    assert (resumed.complete, resumed.sessions) == (True, 2)


def test_an_interrupted_sweep_is_resumed_with_each_image_evaluated_once(
    crowd: Dataset, swept: Path, tmp_path: Path
) -> None:
    runs: list[str] = []

    @contextmanager
    def stopping(title: str) -> Iterator[Watch]:
        runs.append(title)

        def watch(state: RunState) -> None:
            # In the second round, after some of the images of a point.
            if len(runs) == 3 and state.done > 50:
                raise KeyboardInterrupt

        yield watch

    planned = plan(crowd, tmp_path, tolerance=0.0)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(planned, stopping)
    assert not json.loads((tmp_path / "sweep.json").read_text())["complete"]
    whole = json.loads((swept / "sweep.json").read_text())
    record = sweep(crowd, tmp_path, ends_early=False)
    for point, expected in zip(record.points, whole["points"], strict=True):
        assert (point.outcome, point.ap) == ("finished", expected["ap"])
        sessions = RunReport.load(tmp_path / point.name).audit.sessions
        assert sum(session.images for session in sessions) == 132
    assert runs[2].startswith("round 2 of 3, 66 images, ")


def test_a_finished_sweep_runs_nothing_again(crowd: Dataset, swept: Path) -> None:
    @contextmanager
    def never(title: str) -> Iterator[Watch]:
        pytest.fail(f"{title} runs again")
        yield lambda _state: None

    before = sweep(crowd, swept, ends_early=False)
    assert run_sweep(plan(crowd, swept, ends_early=False), never) == before


def test_a_folder_of_another_sweep_is_refused(
    people: Dataset, crowd: Dataset, swept: Path, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match=r"holds another sweep: data\.annotations is [0-9a-f]+"):
        sweep(people, swept)
    (tmp_path / "sweep.svg").write_text("mine")
    with pytest.raises(SetupError, match=r"sweep\.svg was not written by a sweep"):
        sweep(crowd, tmp_path)
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(SetupError, match="is not the record of a sweep"):
        sweep(crowd, tmp_path)


def options(dataset: Dataset, *more: str) -> list[str]:
    keys = {
        "data.images": dataset.images,
        "data.annotations": dataset.annotations,
        "data.limit": 6,
        "backend": "oracle",
        "engine": "inline",
    }
    return ["sweep", *(f"--set={key}={value}" for key, value in keys.items()), *more]


def test_the_command_writes_record_plots_and_a_table(run: Run, people: Dataset) -> None:
    power = ("--watts=auto=50", "--price=auto=0.5")
    code, out, err = run(*options(people, f"--input={COARSE},{FINE}", *power))
    assert (code, err) == (0, "")
    assert "front: images/s, images/J, images/price" in out
    assert "Written to sweep" in out
    assert Path("sweep/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert ET.parse("sweep/sweep.svg").getroot().tag.endswith("svg")
    for point in json.loads(Path("sweep/sweep.json").read_text())["points"]:
        rate = point["images_per_s"]
        assert point["images_per_joule"] == pytest.approx(rate / 50)
        assert point["images_per_cost"] == pytest.approx(3600 * rate / 0.5)


def test_an_impossible_point_is_a_line_with_the_reason(run: Run, people: Dataset) -> None:
    code, out, err = run(*options(people, f"--input={FINE}", "--precision=f32,int8"))
    assert (code, err) == (0, "")
    assert f"{FINE} int8: impossible, precision: int8 is not available on backend oracle" in out
    code, out, err = run(*options(people, "--precision=int8,bf16"))
    assert (code, out) == (2, "")
    assert "precision: int8 is not available on backend oracle" in err


def test_a_point_that_cannot_start_is_left_out_unless_it_is_the_only_one(
    run: Run, people: Dataset
) -> None:
    arguments = options(people, "--set=cpu.cpus=1", f"--input={FINE}")
    code, out, err = run(*arguments, "--devices=cpu:4096,cpu:1")
    assert (code, err) == (0, "")
    assert f"{FINE} auto on cpu:4096: impossible, " in out
    assert "4096 CPU workers of 1 each need 4096" in out
    code, out, err = run(*arguments, "--devices=cpu:4096", "--output=alone")
    assert (code, out) == (3, "")
    assert "4096 CPU workers of 1 each need 4096" in err
    assert len(err.splitlines()) == 1


def test_no_point_within_the_gates_ends_with_5_and_names_the_nearest(
    run: Run, people: Dataset
) -> None:
    arguments = options(people, f"--input={COARSE},{FINE}")
    assert run(*arguments, "--min-ap=0.5")[0] == 0
    code, out, err = run(*arguments, "--min-ap=1", "--min-images-per-s=1e9")
    assert code == 5
    assert "Written to sweep" in out
    assert "error: no point reaches --min-ap 1 and --min-images-per-s 1e+09: the most" in err
    assert f"accurate is {FINE} f32 with AP" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--input=", "expected values that are separated by commas"),
        ("--batch=1,,2", "--batch: expected values that are separated by commas"),
        ("--input=9x9", "input: must be 'auto' or HEIGHTxWIDTH"),
        ("--watts=cpu:1", "--watts cpu:1: expected DEVICES=AMOUNT"),
        ("--price=auto=-1", "--price auto=-1: expected DEVICES=AMOUNT"),
        ("--price=cuda:0=1", "no point of the sweep has these devices (choose from auto)"),
        ("--set=dump_maps=maps", "dump_maps: the points of a sweep"),
        ("--set=backend=recorded", "model.path is not set"),
    ],
)
def test_an_invalid_sweep_is_refused_in_one_line(
    run: Run, people: Dataset, option: str, message: str
) -> None:
    code, out, err = run(*options(people, option))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_dataset_without_labels_is_refused(run: Run, people: Dataset, tmp_path: Path) -> None:
    content = json.loads(people.annotations.read_text())
    unlabelled = tmp_path / "images.json"
    unlabelled.write_text(json.dumps({"images": content["images"]}))
    code, _, err = run(*options(people, f"--set=data.annotations={unlabelled}"))
    assert code == 3
    assert "has no annotations, and a sweep weighs AP" in err


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_on_ray_has_the_ap_of_one_without_it(
    crowd: Dataset, swept: Path, tmp_path: Path
) -> None:
    config = crowd.config(precision="f32", engine="ray")
    points = sweep_points(config, {"input": (COARSE, FINE), "devices": ["cpu:1", "cpu:2"]})
    planned = SweepPlan(config=config, points=points, output=Location(tmp_path), min_ap=0.5)
    record = run_sweep(planned, unwatched)
    inline = json.loads((swept / "sweep.json").read_text())["points"]
    assert [point.outcome for point in record.points[:2]] == ["ended", "ended"]
    finished = [point for point in record.points if point.outcome == "finished"]
    assert {point.ap for point in finished} == {inline[1]["ap"]}
    assert record.best["images_per_s"] in {point.name for point in finished}


@pytest.mark.slow
def test_early_ends_leave_the_best_point_of_the_demo_and_fewer_images(
    run: Run, tmp_path: Path
) -> None:
    arguments = ["sweep", "--input=128x224,256x456", "--precision=f32,int8", "--min-ap=0.4"]
    arguments += ["--set=engine=inline", "--devices=cpu:1"]
    records = []
    for folder, more in ((tmp_path / "all", ["--no-early-end"]), (tmp_path / "early", [])):
        code, out, err = run(*arguments, *more, f"--output={folder}")
        assert (code, err) == (0, "")
        assert "Best by images/s: 256x456" in out
        records.append(json.loads((folder / "sweep.json").read_text()))
    whole, early = records
    assert (whole["saved_images"], early["saved_images"] > 0) == (0, True)
    expected = {point["name"]: point["ap"] for point in whole["points"]}
    finished = [point for point in early["points"] if point["outcome"] == "finished"]
    assert {point["input"] for point in finished} == {"256x456"}
    assert [point["ap"] for point in finished] == [expected[point["name"]] for point in finished]
