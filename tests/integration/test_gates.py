"""Gates on AP and throughput: exit code 0 or 5, and one line that names figure and chance."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import evaluate
from distributed_pose.bench.scale_gates import rate_shortfall
from distributed_pose.metrics.bootstrap import Interval
from tests.conftest import Dataset, Run

INTERVAL = r"\(95 % interval [-\d.]+ to [-\d.]+\)"


def options(people: Dataset, *further: str) -> list[str]:
    data = [f"--set=data.images={people.images}", f"--set=data.annotations={people.annotations}"]
    return ["evaluate", *data, "--set=backend=oracle", "--set=engine=inline", *further]


@pytest.fixture(scope="module")
def stored(crowd: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over the rendered people, ten times, of some hundred shards."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    evaluate(crowd.config(), folder)
    return folder


def changed(stored: Path, name: str, **report: Any) -> Path:
    """Returns a copy of a run with other fields in its report."""
    folder = stored.parent / name
    shutil.copytree(stored, folder, dirs_exist_ok=True)
    content = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(content | report))
    return folder


def without_first_images(stored: Path, number: int) -> Path:
    """Returns a copy of a run that lost the people of some images."""
    folder = changed(stored, f"without-{number}")
    detections = json.loads((folder / "detections.json").read_text())
    lost = sorted({one["image_id"] for one in detections})[:number]
    kept = [one for one in detections if one["image_id"] not in lost]
    (folder / "detections.json").write_text(json.dumps(kept))
    report = json.loads((folder / "report.json").read_text())
    report["ap"]["AP"] *= 1 - number / 120
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_run_that_reaches_its_gates_exits_with_0(run: Run, people: Dataset) -> None:
    code, _, err = run(
        *options(people, "--output=first", "--min-ap=0.5", "--min-images-per-s=0.001")
    )
    assert (code, err) == (0, "")
    gates = ["--baseline=first", "--tolerance=0.01", "--rate-tolerance=1"]
    assert run(*options(people, "--output=second", *gates))[0] == 0


def test_a_run_below_its_gates_exits_with_5_and_names_both_figures_in_one_line(
    run: Run, people: Dataset
) -> None:
    code, out, err = run(
        *options(people, "--output=first", "--min-ap=1", "--min-images-per-s=1e6", "--json")
    )
    assert code == 5
    ap = json.loads(out)["ap"]["AP"]
    assert len(err.splitlines()) == 1
    assert f"AP {ap:.4f} is {1 - ap:.4f} below --min-ap 1, " in err
    assert re.search(rf"more than chance {INTERVAL}|within chance {INTERVAL}", err)
    assert "images/s are" in err
    assert "below --min-images-per-s 1e+06" in err
    assert json.loads(Path("first/report.json").read_text())["complete"]


def test_a_gap_is_distinguished_from_chance(run: Run, stored: Path) -> None:
    ap = json.loads((stored / "report.json").read_text())["ap"]["AP"]
    near, far = f"--min-ap={ap + 0.0001}", "--min-ap=0.9999"
    code, _, err = run("compare", str(stored), str(stored), near)
    assert code == 5
    assert "within chance" in err
    worse = without_first_images(stored, 60)
    code, _, err = run("compare", str(stored), str(worse), far)
    assert code == 5
    assert "more than chance" in err


def test_a_run_behind_its_baseline_is_named_unless_it_is_within_the_tolerance(
    run: Run, stored: Path
) -> None:
    worse = without_first_images(stored, 30)
    code, out, err = run("compare", str(stored), str(worse), "--tolerance=0.01")
    assert code == 5
    assert "AP" in out
    assert "of its baseline" in err
    assert "over the tolerance of 0.01, more than chance" in err
    assert run("compare", str(stored), str(worse), "--tolerance=0.9")[0] == 0
    assert run("compare", str(stored), str(worse))[0] == 0


@pytest.mark.slow
def test_throughput_behind_its_baseline_is_named_with_its_chance(run: Run, stored: Path) -> None:
    report = json.loads((stored / "report.json").read_text())
    rate = report["throughput"]["wall_images_per_s"]
    slow = changed(
        stored, "slow", throughput={**report["throughput"], "wall_images_per_s": rate / 4}
    )
    code, _, err = run("compare", str(stored), str(slow), "--rate-tolerance=0.1")
    assert code == 5
    assert "images/s are 75.0% below" in err
    assert re.search(rf"over the tolerance of 10.0%, more than chance {INTERVAL}", err)
    shutil.rmtree(slow / "ledger")
    _, _, err = run("compare", str(stored), str(slow), "--rate-tolerance=0.1")
    assert "of unknown chance" in err


def test_a_run_without_ap_does_not_pass_a_gate_of_ap(run: Run, stored: Path) -> None:
    without = changed(stored, "unscored", ap=None, unscored="labels.json has no annotations")
    code, _, err = run("compare", str(stored), str(without), "--min-ap=0.1")
    assert code == 5
    assert "no AP for --min-ap: labels.json has no annotations" in err
    assert run("compare", str(stored), str(without), "--tolerance=0.1")[0] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--tolerance=0.1",), 2, "--baseline"),
        (("--baseline=nowhere",), 3, "nowhere"),
        (("--min-ap=2",), 2, "--min-ap"),
        (("--min-ap=nan",), 2, "--min-ap"),
        (("--min-images-per-s=inf",), 2, "--min-images-per-s"),
        (("--min-images-per-s=-1",), 2, "--min-images-per-s"),
    ],
)
def test_gates_that_cannot_be_are_refused_before_the_run(
    run: Run, people: Dataset, arguments: tuple[str, ...], code: int, message: str
) -> None:
    answer, out, err = run(*options(people, "--output=first", *arguments))
    assert (answer, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("first").exists()


def test_scaling_below_its_gate_names_how_many_runs_are() -> None:
    assert rate_shortfall(100.0, 90.0, [80.0, 100.0, 120.0]) == ""
    text = rate_shortfall(100.0, 110.0, [80.0, 100.0, 120.0])
    assert text == (
        "100.00 images/s are 10.00 below --min-images-per-s 110, in 2 of 3 runs, "
        "of unknown chance (too few runs, see --repeat)"
    )
    assert "more than chance (p = 0.031)" in rate_shortfall(3.0, 9.0, [1, 2, 3, 4, 5])
    assert "within chance (p = 0.19)" in rate_shortfall(3.0, 4.5, [1, 2, 3, 4, 5])


def test_scale_exits_with_5_below_its_gate(run: Run, people: Dataset) -> None:
    scaling = ["scale", "--devices=1", "--repeat=1", *options(people)[1:3]]
    scaling += ["--set=engine=inline", "--set=backend=oracle"]
    code, _, err = run(*scaling, "--min-images-per-s=1e6")
    assert code == 5
    assert err.splitlines()[-1].startswith("error: 1 devices: ")
    assert "in 1 of 1 runs" in err


def test_scale_compares_with_an_earlier_experiment(run: Run, people: Dataset) -> None:
    scaling = ["scale", "--devices=1", "--repeat=1", *options(people)[1:3]]
    scaling += ["--set=engine=inline", "--set=backend=oracle"]
    assert run(*scaling, "--output=first", "--min-ap=0.1")[0] == 0
    path = Path("first/scaling.json")
    report = json.loads(path.read_text())
    report["points"][0]["ap"]["AP"] = 1.0
    path.write_text(json.dumps(report))
    baseline = ["--baseline=first", "--rate-tolerance=1"]
    code, _, err = run(*scaling, "--output=second", *baseline, "--tolerance=0.001")
    assert code == 5
    assert "below the 1.0000 of the baseline" in err
    assert run(*scaling, "--output=second", *baseline, "--tolerance=1")[0] == 0
    assert "would be overwritten" in run(*scaling, "--output=first", *baseline)[2]
    assert run(*scaling, "--tolerance=0.1")[0] == 2
    assert run(*scaling, "--baseline=nowhere")[0] == 3


def test_an_interval_covers_its_ends() -> None:
    interval = Interval(value=0, low=-1, high=1)
    assert interval.covers(-1)
    assert not interval.covers(1.1)
