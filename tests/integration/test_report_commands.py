"""Figures are read from and printed for other tools, and shown in one table."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from distributed_pose.evaluation import evaluate
from distributed_pose.report.run_report import RunReport
from tests.conftest import Dataset, Run
from tests.unit.guide.test_logs import AIS, LINE, PERF, TRTEXEC, WHOLE_LOG
from tests.unit.guide.test_results_table import GUIDE

NUMBER = r"[-+.e\d]+"


@pytest.fixture(scope="module")
def measured(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport]:
    """The folder and the report of a run in batches of four."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    return folder, evaluate(people.config(batch_size=4), folder)


def values(line: str) -> dict[str, float]:
    pairs = re.findall(rf"([A-Za-z%()\d]+(?: throughputRate)?)(?: =|:) ({NUMBER})", line)
    return {key: float(value) for key, value in pairs}


def test_a_run_is_printed_in_the_guides_rows(run: Run, measured: tuple[Path, RunReport]) -> None:
    folder, report = measured
    code, out, _ = run("report", str(folder), "--as", "guide")
    lines = {
        line.partition("]")[0][1:]: values(line.partition("]")[2]) for line in out.splitlines()
    }
    figures, stages = report.throughput, report.stages
    assert code == 0
    assert list(lines) == ["e2e", "data read", "preprocess", "inference", "postprocess"]
    assert lines["e2e"] == pytest.approx(
        {"throughputRate": figures.wall_images_per_s, "latency": figures.wall_s * 1e3}, rel=1e-5
    )
    compute = figures.compute_images_per_s["total"]
    assert lines["inference"]["Interface throughputRate"] == pytest.approx(compute, rel=1e-5)
    read_ms = stages["read"].total_ns / 12 / 1e6
    assert lines["data read"] == pytest.approx(
        {"moduleLatency": read_ms, "throughputRate": 1e3 / read_ms}, rel=1e-5
    )
    within = sum(stages[name].total_ns for name in ("copy_in", "compute", "copy_out"))
    assert lines["inference"]["moduleLatency"] == pytest.approx(within / 12 / 1e6, rel=1e-5)
    names = ("check", "transfer", "peaks", "limbs", "assemble")
    after = sum(stages[name].total_ns for name in names)
    assert lines["postprocess"]["moduleLatency"] == pytest.approx(after / 12 / 1e6, rel=1e-5)


def test_a_run_is_printed_in_the_line_of_trtexec(
    run: Run, measured: tuple[Path, RunReport]
) -> None:
    folder, report = measured
    code, out, err = run("report", str(folder / "report.json"), "--as", "trtexec")
    stage = report.stages["compute"]
    expected = {
        "min": stage.min_ns,
        "max": stage.max_ns,
        "mean": stage.total_ns / stage.count,
        "median": stage.p50_ns,
        "percentile(99%)": stage.p99_ns,
    }
    assert code == 0
    assert out.startswith("[I] GPU Compute Time: min = ")
    assert values(out.partition("Time: ")[2]) == pytest.approx(
        {name: ns / 1e6 for name, ns in expected.items()}, rel=1e-5
    )
    assert "up to 4 images" in err


@pytest.mark.parametrize(
    ("log", "form", "expected"),
    [(PERF, "guide", PERF), (TRTEXEC, "trtexec", f"[I] {LINE}\n")],
)
def test_the_guides_lines_are_read_and_printed_unchanged(
    run: Run, log: str, form: str, expected: str
) -> None:
    Path("tool.log").write_text(log)
    assert run("report", "tool.log", "--as", form)[1] == expected
    assert run("report", "import", "tool.log", "--output", "record.json")[0] == 0
    assert run("report", "record.json", "--as", form)[1] == expected


def imported(run: Run, log: str, *options: str, name: str = "tool.log") -> dict[str, Any]:
    Path(name).write_text(log)
    code, out, _ = run("report", "import", name, *options)
    assert code == 0
    record: dict[str, Any] = json.loads(out)
    return record


def test_a_perf_file_becomes_rows_of_both_clocks(run: Run) -> None:
    name = "perf_vision_batchsize_16_device_0.txt"
    record = imported(run, PERF, "--device", "310", "--ap", "0.404", name=name)
    compute, wall = record["rows"]
    assert (compute["clock"], compute["total_images_per_s"]) == ("compute", 755.13)
    assert (wall["clock"], wall["total_images_per_s"]) == ("wall", 0.0806233)
    assert (compute["batch"], compute["devices_per_card"], compute["ap"]) == (16, 4, 0.404)


@pytest.mark.parametrize(
    ("log", "options", "rate", "batch", "device"),
    [
        (TRTEXEC, (), 244.970, 1, "unknown device"),
        (TRTEXEC, ("--batch", "8", "--device", "T4"), 8 * 244.970, 8, "T4"),
        (WHOLE_LOG, (), 4 * 244.970, 4, "Tesla T4"),
        (AIS.format(how="(4)"), ("--device", "Ascend310P3"), 1250.0, 4, "Ascend310P3"),
        (2 * AIS.format(how="(4)"), (), 2500.0, 4, "unknown device"),
    ],
)
def test_a_log_becomes_a_compute_row(
    run: Run, log: str, options: tuple[str, ...], rate: float, batch: int, device: str
) -> None:
    (row,) = imported(run, log, *options)["rows"]
    assert row["total_images_per_s"] == pytest.approx(rate, abs=0.01)
    assert (row["batch"], row["device"], row["origin"]) == (batch, device, "log")
    assert row["devices"] == log.count("Performance Summary") or 1


def test_an_assumed_batch_size_is_noted(run: Run) -> None:
    Path("tool.log").write_text(TRTEXEC)
    assert "1 is assumed (set --batch)" in run("report", "import", "tool.log")[2]
    assert run("report", "import", "tool.log", "--batch", "1")[2] == ""


def test_runs_logs_records_and_the_guide_are_in_one_table(
    run: Run, measured: tuple[Path, RunReport]
) -> None:
    folder, report = measured
    Path("guide.md").write_text(GUIDE)
    Path("perf.txt").write_text(PERF)
    run("report", "import", "perf.txt", "--device", "Ascend310P3", "--output", "perf.json")
    paths = (str(folder), "guide.md", "perf.json")
    code, out, _ = run("report", "table", *paths, "--reference", "guide", "--json")
    entries = json.loads(out)
    assert code == 0
    assert [entry["origin"] for entry in entries] == [
        *("simulated", "simulated", "log", "log", "log", "log", "log"),
        *["published"] * 9,
    ]
    wall = entries[1]
    assert wall["clock"] == "wall"
    assert wall["images_per_s_per_device"] == report.throughput.wall_images_per_s
    assert report.ap is not None
    assert wall["ap"] == report.ap["AP"]
    assert set(wall["ratios"].values()) == {None}
    perf = entries[5]
    assert perf["ratios"]["Ascend310"] == pytest.approx(755.13 / 547.996)


def test_the_table_marks_what_is_published(run: Run) -> None:
    code, out, _ = run("report", "table", "--reference", "guide")
    assert code == 0
    assert "not measured here" in " ".join(out.split())
    line = next(line for line in out.splitlines() if "547.996" in line)
    assert line.split()[:4] == ["Ascend310", "1", "136.999", "547.996"]
    assert "published" in line
    markdown = run("report", "table", "--reference", "guide", "--markdown")[1]
    assert "| Ascend310P3 | 1 | 887.45 | 887.45 |" in markdown


def test_unequal_devices_have_one_wall_clock_row_without_a_rate_per_device(
    run: Run, measured: tuple[Path, RunReport]
) -> None:
    report = json.loads((measured[0] / "report.json").read_text())
    card = {**report["devices"][0], "name": "npu:0", "description": "Ascend310"}
    report["devices"].append({**card, "backend": "ascend", "compute_images_per_s": 136.999})
    Path("mixed").mkdir()
    Path("mixed/report.json").write_text(json.dumps(report))
    rows = json.loads(run("report", "table", "mixed", "--json")[1])
    assert [row["clock"] for row in rows] == ["compute", "compute", "wall"]
    assert rows[0]["images_per_s_per_card"] == pytest.approx(547.996)
    assert (rows[2]["devices"], rows[2]["images_per_s_per_device"]) == (2, None)
    assert "for all 2 devices" in run("report", "mixed", "--as", "guide")[2]


def test_a_replay_has_no_figures_of_a_tool(run: Run, people: Dataset, tmp_path: Path) -> None:
    evaluate(people.config(dump_maps=tmp_path / "maps"))
    recorded = people.config(backend="recorded", model={"path": tmp_path / "maps"})
    evaluate(recorded, tmp_path / "again")
    for form in ("guide", "trtexec"):
        code, out, err = run("report", "again", "--as", form)
        assert (code, out) == (2, "")
        assert "executes no model" in err
    rows = json.loads(run("report", "table", "again", "--json")[1])
    assert [(row["clock"], row["device"]) for row in rows] == [("wall", "recorded maps")]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("notes.txt", "nothing to see", "no figures in a known format"),
        ("old.json", '{"devices": []}', "evaluate again"),
        ("broken.json", "{", "neither the report"),
        ("record.json", '{"rows": 5}', "neither the report"),
        ("empty.log", "", "no figures in a known format"),
    ],
)
def test_a_file_without_figures_is_a_setup_error_that_names_it(
    run: Run, name: str, content: str, named: str
) -> None:
    Path(name).write_text(content)
    for command in (("report", name, "--as", "guide"), ("report", "table", name)):
        code, _, err = run(*command)
        assert (code, len(err.splitlines())) == (3, 1)
        assert name in err
        assert named in err


def test_a_missing_file_is_a_setup_error(run: Run) -> None:
    code, _, err = run("report", "nowhere", "--as", "guide")
    assert code == 3
    assert "nowhere" in err


def test_a_format_that_a_log_has_no_figures_for_is_a_usage_error(run: Run) -> None:
    Path("tool.log").write_text(TRTEXEC)
    code, _, err = run("report", "tool.log", "--as", "guide")
    assert code == 2
    assert "trtexec" in err
    assert run("report", "table")[0] == 2
    code, _, err = run("report", "tool.log")
    assert code == 3
    assert "output folder of an evaluation" in err
