"""Reports of older versions are read, and those of newer formats are refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import SetupError
from distributed_pose.guide.sources import read_source
from distributed_pose.report.report_format import FORMAT
from distributed_pose.report.run_report import RunReport
from tests.conftest import Run

STAGE = {
    "count": 1,
    "total_ns": 190054,
    "p50_ns": 190054,
    "p90_ns": 190054,
    "p99_ns": 190054,
    "min_ns": 190054,
    "max_ns": 190054,
}

# A report as commit 05e84d2 wrote it, before reports had a format number. The durations of all
# stages are the same here. Every field that it lacks needs a default, in all versions to come.
FIRST = {
    "note": "Demo: rendered people. For COCO set data.images, data.annotations, model.path.",
    "complete": True,
    "partial_by_choice": True,
    "num_images": 4,
    "num_detections": 4,
    "failures": [{"image_id": 7, "file_name": "7.jpg", "reason": "no such file"}],
    "damaged": [],
    "failures_allowed": 1,
    "ap": {
        **dict.fromkeys(("AP", "AP50", "AP75", "APl", "AR", "AR50", "AR75", "ARl"), 1.0),
        **dict.fromkeys(("APm", "ARm"), -1.0),
    },
    "unscored": "",
    "profile": "modelzoo",
    "precision": "f32",
    "backend": "oracle",
    "engine": "inline",
    "gather": "maps",
    "data": {
        "images": "demo/images",
        "annotations": "demo/annotations/person_keypoints.json",
        "repeat": 1,
        "category": 1,
        "notes": [],
    },
    "model": {
        "path": "demo/annotations/person_keypoints.json",
        "sha256": "ca6a9e53b22e8be8372e982cf8c84b310f99b02f3c19a56349511843ab83703b",
        "refinement_stages": None,
        "unused": [],
        "notes": [],
    },
    "throughput": {
        "wall_images_per_s": 31.710801548857024,
        "compute_images_per_s": {"cpu:0": 239.93217597249608, "total": 239.93217597249608},
        "wall_s": 0.126139984,
        "outside_compute_share": 0.8678343101740048,
        "straggler_share": 0.0,
    },
    "stages": dict.fromkeys(
        (
            *("read", "decode_jpeg", "preprocess", "copy_in", "compute", "copy_out", "check"),
            *("transfer", "peaks", "limbs", "assemble", "score"),
        ),
        STAGE,
    ),
    "sessions": 1,
    "warmup_s": 21.398888715,
    "compile_s": 0.0005172119999770075,
    "memory": {"peak_rss_bytes": {"driver": 461508608}, "peak_object_store_bytes": 0},
    "faults": {"reasons": {"cpu:0": ["died"]}, "taken_out": []},
    "host_use": {
        "cpu_s": {"driver": 0.0310888829999989},
        "object_store_bytes": 0,
        "cores": 2,
        "images": 4,
    },
    "devices": [
        {
            "name": "cpu:0",
            "kind": "cpu",
            "id": 0,
            "physical_id": "",
            "node": "",
            "description": "ground truth",
            "backend": "oracle",
            "precision": "f32",
            "threads": 2,
            "batch_size": 8,
            "images": 4,
            "busy_share": 0.13216568982599522,
            "compute_images_per_s": 239.93217597249608,
            "host": "vm",
            "versions": {"numpy": "2.4.6"},
            "passed_over": [],
        }
    ],
    "versions": {"distributed-pose": "0.1.0"},
}


def folder_with(folder: Path, report: dict[str, Any]) -> Path:
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_report_without_a_format_is_read_with_unknown_facts(tmp_path: Path) -> None:
    report = RunReport.load(folder_with(tmp_path, FIRST))
    assert (report.report_format, report.read, report.reducers, report.scorer) == (1, "", None, "")
    (device,) = report.devices
    assert (device.feeders, device.feeder_processes) == (None, None)
    written = json.loads(report.to_json())
    assert {name: written[name] for name in FIRST if name != "devices"} == {
        name: value for name, value in FIRST.items() if name != "devices"
    }


@pytest.mark.parametrize("options", [(), ("--as", "guide"), ("--as", "trtexec")])
def test_an_old_report_is_printed_without_what_it_does_not_say(
    run: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    code, out, err = run("report", str(folder_with(tmp_path, FIRST)), *options)
    assert (code, "Traceback" in err) == (0, False)
    assert "None" not in out
    assert "prepared at once" not in out


def test_two_old_reports_are_compared(run: Run, tmp_path: Path) -> None:
    folder = str(folder_with(tmp_path, FIRST))
    code, out, err = run("compare", folder, folder)
    assert (code, err.count("Traceback")) == (0, 0)
    assert "31.71" in out


@pytest.mark.parametrize("read", [RunReport.load, read_source])
def test_a_report_of_a_newer_format_is_refused_in_one_line(tmp_path: Path, read: Any) -> None:
    folder_with(tmp_path, {"report_format": FORMAT + 1, "images": "in another form"})
    with pytest.raises(SetupError, match=rf"has format {FORMAT + 1} of a newer version") as error:
        read(tmp_path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("number", ["2", 0, 1.5, None])
def test_a_format_that_is_no_number_is_named(tmp_path: Path, number: object) -> None:
    with pytest.raises(SetupError, match=r"not a report: report_format: "):
        RunReport.load(folder_with(tmp_path, {**FIRST, "report_format": number}))
