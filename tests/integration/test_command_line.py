"""The command as a user meets it: output, files, exit codes, one line for every broken input."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from tests.conftest import Dataset, Run
from tests.hostile.cases import annotations
from tests.tiny_models import save_constant_model

FIGURES = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
STAGES = [
    *("read", "decode_jpeg", "preprocess", "copy_in", "compute", "copy_out", "check", "transfer"),
    *("peaks", "limbs", "assemble", "score"),
]


def settings(dataset: Dataset, **values: Any) -> list[str]:
    """Returns --set options of an inline run with the oracle."""
    keys = {
        "data.images": dataset.images,
        "data.annotations": dataset.annotations,
        "engine": "inline",
        "backend": "oracle",
        **{key.replace("__", "."): value for key, value in values.items()},
    }
    return [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def copied(people: Dataset, tmp_path: Path) -> Dataset:
    """A dataset that a test may damage."""
    shutil.copytree(people.images, tmp_path / "copied")
    annotations = Path(shutil.copy(people.annotations, tmp_path / "copied.json"))
    return Dataset(tmp_path / "copied", annotations)


def edit(dataset: Dataset, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(dataset.annotations.read_text())
    change(content)
    dataset.annotations.write_text(json.dumps(content))


def test_a_run_shows_its_figures_and_writes_its_files(run: Run, people: Dataset) -> None:
    code, out, _ = run("evaluate", *settings(people), "--output", "first")
    report = json.loads(Path("first/report.json").read_text())
    detections = json.loads(Path("first/detections.json").read_text())
    config = yaml.safe_load(Path("first/config.yaml").read_text())
    assert code == 0
    assert f"{report['ap']['AP']:.3f}" in out
    assert "first" in out
    assert list(report["ap"]) == FIGURES
    assert list(report["stages"]) == STAGES
    assert report["stages"]["peaks"]["count"] == report["num_images"] == 12
    assert report["throughput"]["wall_images_per_s"] > 0
    assert report["throughput"]["compute_images_per_s"].keys() == {"cpu:0", "total"}
    assert 0 < report["throughput"]["outside_compute_share"] < 1
    assert report["memory"]["peak_rss_bytes"]["driver"] > 2**20
    assert {"numpy", "opencv-python-headless", "pycocotools", "ray"} <= report["versions"].keys()
    assert config["profile"] == "modelzoo"
    assert {frozenset(detection) for detection in detections} == {
        frozenset({"image_id", "category_id", "keypoints", "score", "score_normalised"})
    }
    order = [(detection["image_id"], -detection["score"]) for detection in detections]
    assert order == sorted(order)


def test_the_written_config_gives_the_same_run(run: Run, people: Dataset) -> None:
    run("evaluate", *settings(people), "--output", "first")
    code, _, _ = run("evaluate", "--config", "first/config.yaml", "--output", "second")
    first, second = (Path(name, "detections.json").read_bytes() for name in ("first", "second"))
    assert code == 0
    assert first == second


def test_json_has_stdout_for_itself_and_stderr_names_the_steps(
    run_with_progress: Run, people: Dataset
) -> None:
    code, out, err = run_with_progress("evaluate", *settings(people), "--json", "--output", "first")
    assert code == 0
    assert json.loads(out) == json.loads(Path("first/report.json").read_text())
    steps = [line.partition("] ")[2] for line in err.splitlines()]
    # The first step depends on what earlier runs have left in the cache.
    assert steps[1:] == [
        "compiling the model",
        "loading the model on cpu:0",
        "choosing the batch size of cpu:0",
        "warming up cpu:0 with batches of 8",
        "evaluating 12 images on 1 device",
        "scoring",
        "writing the report",
    ]


def test_quiet_prints_the_result_alone(run_with_progress: Run, people: Dataset) -> None:
    code, out, err = run_with_progress(
        "evaluate", *settings(people), "--quiet", "--output", "first"
    )
    assert code == 0
    assert "images/s" in out
    assert not err


def test_verbose_describes_devices_and_shards(
    run: Run, people: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    run("evaluate", *settings(people), "--verbose", "--output", "first")
    assert "cpu:0 is ready" in caplog.text
    assert "1 shards answered, the last one by cpu:0" in caplog.text
    assert "the first results are in" in caplog.text


def test_quiet_and_verbose_exclude_each_other(run: Run, people: Dataset) -> None:
    code, _, err = run("evaluate", *settings(people), "--verbose", "--quiet")
    assert (code, len(err.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("data.anotations=x", "data.annotations"),
        ("batchsize=4", "batch_size"),
        ("batch_size=none", "batch_size"),
        ("batch_size=0", "batch_size"),
        ("profile=modelzo", "modelzoo"),
        ("devices=gpu", "devices"),
        ("data.limit=-1", "data.limit"),
        ("data.category=true", "data.category"),
        ("data.category=[1]", "data.category"),
        ("data.category=1.5", "data.category"),
        ("data.category=''", "data.category"),
        ("engine", "engine"),
    ],
)
def test_a_wrong_setting_is_a_usage_error_that_names_the_key(
    run: Run, option: str, named: str
) -> None:
    code, out, err = run("evaluate", "--set", option)
    assert code == 2
    assert named in err
    assert not out
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["images"].append({**c["images"][0], "width": 7}), "twice"),
        (lambda c: c["images"][0].update(file_name="../secret.jpg"), "../secret.jpg"),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), "/etc/passwd"),
        (lambda c: c["categories"][0]["keypoints"].reverse(), "keypoint"),
        (lambda c: c.update(annotations=7), "annotations"),
    ],
)
def test_a_broken_annotation_file_is_a_setup_error_that_names_it(
    run: Run, copied: Dataset, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    edit(copied, change)
    code, _, err = run("evaluate", *settings(copied))
    assert code == 3
    assert str(copied.annotations) in err
    assert named in err
    assert len(err.splitlines()) == 1


def test_annotations_that_are_not_json_are_a_setup_error(run: Run, copied: Dataset) -> None:
    copied.annotations.write_bytes(b"\xff\xd8 a picture")
    code, _, err = run("evaluate", *settings(copied))
    assert (code, len(err.splitlines())) == (3, 1)
    assert f"{copied.annotations} is not JSON" in err


@pytest.mark.parametrize(
    ("key", "value"), [("data__images", "nowhere"), ("data__annotations", "nowhere.json")]
)
def test_a_missing_path_is_a_setup_error_that_names_it(
    run: Run, people: Dataset, key: str, value: str
) -> None:
    code, _, err = run("evaluate", *settings(people, **{key: value}))
    assert (code, len(err.splitlines())) == (3, 1)
    assert value in err
    assert key.replace("__", ".") in err


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_an_unusable_image_is_a_recorded_failure_of_an_incomplete_run(
    run: Run, copied: Dataset, damage: str
) -> None:
    victim = sorted(copied.images.iterdir())[3]
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:2000])
    code, out, _ = run("evaluate", *settings(copied), "--output", "broken")
    report = json.loads(Path("broken/report.json").read_text())
    assert code == 4
    assert not report["complete"]
    assert report["ap"] is None
    assert [failure["file_name"] for failure in report["failures"]] == [victim.name]
    assert "Incomplete" in out
    assert victim.name in out
    assert "AP50" not in out


def test_no_detections_at_all_give_zeros(run: Run, people: Dataset) -> None:
    values = {"model__path": save_constant_model(Path("silent.onnx")), "backend": "onnxruntime"}
    code, _, _ = run("evaluate", *settings(people, **values), "--output", "silent")
    report = json.loads(Path("silent/report.json").read_text())
    assert code == 0
    assert report["num_detections"] == 0
    assert report["ap"]["AP"] == 0


def test_a_model_with_other_outputs_is_a_setup_error_that_lists_them(
    run: Run, people: Dataset
) -> None:
    values = {
        "model__path": save_constant_model(Path("other.onnx"), heatmaps=21),
        "backend": "onnxruntime",
    }
    code, _, err = run("evaluate", *settings(people, **values))
    assert (code, len(err.splitlines())) == (3, 1)
    assert "heatmaps [?, 21, ?, ?]" in err


def test_a_checkpoint_of_another_network_is_a_setup_error_that_lists_tensors(
    run: Run, people: Dataset
) -> None:
    torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, "other.pth")
    values = {"model__path": "other.pth", "backend": "onnxruntime"}
    code, _, err = run("evaluate", *settings(people, **values))
    assert (code, len(err.splitlines())) == (3, 1)
    assert "other.pth" in err
    assert "model.0.0.weight" in err
    assert "other.weight" in err


def test_devices_lists_what_would_be_used(run: Run) -> None:
    code, out, _ = run("devices", "--set", "engine=inline", "--set", "devices=cpu:2")
    assert code == 0
    assert "cpu:0" in out
    assert "cpu:1" in out


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    assert run("evalute")[0] == 2


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "distributed_pose", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("distributed-pose ")


def test_picture_draws_the_people_of_a_run(run: Run, people: Dataset) -> None:
    run("evaluate", *settings(people), "--output", "first")
    code, _, _ = run("picture", "first", "poses.png", "--images", "2")
    drawn = cv2.imread("poses.png")
    assert code == 0
    assert drawn is not None
    assert drawn.shape[0] == 360


def test_a_picture_of_a_folder_without_a_run_is_a_setup_error(run: Run) -> None:
    code, _, err = run("picture", "nowhere", "poses.png")
    assert code == 3
    assert "nowhere" in err


def test_demo_data_can_be_evaluated(run: Run) -> None:
    code, out, _ = run("demo-data", "people", "--images", "3", "--seed", "5")
    assert code == 0
    options = out.split()
    code, out, _ = run(
        "evaluate", *options, "--set", "backend=oracle", "--set", "engine=inline", "--json"
    )
    assert code == 0
    assert json.loads(out)["num_images"] == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report.json", "[]"),
        ("report.json", "{"),
        ("report.json", '{"data": {"images": 5, "annotations": "a"}}'),
        ("report.json", '{"data": null}'),
        ("detections.json", "{}"),
        ("detections.json", "[5]"),
        ("detections.json", '[{"image_id": 1, "keypoints": [1, 2]}]'),
        ("detections.json", json.dumps([{"image_id": 1, "keypoints": [1e30] * 51}])),
        ("detections.json", "[" * 100_000),
    ],
)
def test_a_picture_of_files_that_are_not_a_run_is_an_error_of_one_line(
    run: Run, people: Dataset, name: str, content: str
) -> None:
    run("evaluate", *settings(people, data__limit=1), "--output", "first")
    Path("first", name).write_text(content)
    code, _, err = run("picture", "first", "poses.png")
    assert code == 3
    assert name in err
    assert len(err.splitlines()) == 1


def test_a_picture_of_a_long_image_is_a_tile_like_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "long.png"), np.zeros((2, 9000, 3), np.uint8))
    labels = annotations({"long.png": (2, 9000)})
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    data = Dataset(tmp_path / "images", tmp_path / "labels.json")
    run("evaluate", *settings(data), "--output", "first")
    detections = [{"image_id": 1, "keypoints": [1.0] * 51, "score": 1.0, "category_id": 1}]
    Path("first/detections.json").write_text(json.dumps(detections))
    assert run("picture", "first", "poses.png")[0] == 0
    picture = cv2.imread("poses.png")
    assert picture is not None
    assert picture.shape == (360, 1440, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", "a.onnx", "--for", "ascend310", "--batch", "9" * 5000),
        ("compile", "a.onnx", "--for", "ascend310", "--batch", "1," * 5000 + "1"),
        ("compile", "a.onnx", "--for", "ascend310", "--batch", "\u0663\u00b2"),
        ("plan", "--devices", "300=4", "--images", "nan"),
        ("plan", "--devices", "1.2.3=4"),
        ("plan", "--devices", "300=4," * 1000),
        ("plan", "--devices", "300=4", "--cores", "9" * 400),
        ("bench", "device", "--seconds", "inf"),
        ("report", "import", "a.log", "--ap", "7"),
        ("demo-data", "a", "--images", "-1"),
        ("demo-data", "a", "--seed", "-1"),
        ("scale", "--devices", "9" * 5000),
    ],
)
def test_impossible_numbers_are_a_usage_error_of_one_line(
    run: Run, arguments: tuple[str, ...]
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert len(err) < 1000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"cores": 0}',
        b"[" * 100_000,
        b'{"cores": 4, "ceiling_images_per_s": 0, "device_share": 0.9, "cpu_us": {}}',
    ],
)
def test_files_that_are_not_costs_are_a_setup_error(run: Run, content: bytes) -> None:
    Path("costs.json").write_bytes(content)
    code, _, err = run("plan", "--devices", "300=4", "--costs", "costs.json")
    assert code == 3
    assert "costs.json" in err
    assert len(err.splitlines()) == 1


def test_hostile_names_are_printed_as_escapes_and_stay_unchanged_in_the_report(
    run: Run, tmp_path: Path
) -> None:
    name = "\x1b[31m[red]\u202eb\rc\nd\x9b.png"
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.json").write_text(json.dumps(annotations({name: (48, 64)})))
    data = Dataset(tmp_path / "images", tmp_path / "labels.json")
    code, out, err = run("evaluate", *settings(data), "--output", "\x1b[31mfirst")
    assert code == 4
    assert "\\u001b[31m[red]\\u202eb\\rc\\nd\\u009b.png" in out
    assert all(line.isprintable() for line in (out + err).split("\n"))
    report = json.loads(Path("\x1b[31mfirst/report.json").read_text())
    assert report["failures"][0]["file_name"] == name


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--set", "\x1b[31mkey=1"),
        ("evaluate", "--set", "profile=\u202emodelzoo"),
        ("evaluate", "--config", "\x1b]0;a\a.yaml"),
        ("report", "table", "a\nerror: b"),
        ("export", "\x1b[31m.pth", "a.onnx"),
        ("evaluate", "--set", "model.path=\x9b31m.onnx", "--set", "data.images=\r"),
    ],
)
def test_hostile_words_of_a_command_line_are_printed_as_escapes(
    run: Run, arguments: tuple[str, ...]
) -> None:
    code, out, err = run(*arguments)
    assert code in {2, 3}
    assert not out
    assert err.count("\n") == 1
    assert err.strip().isprintable()


def test_more_repetitions_than_memory_holds_are_a_usage_error(run: Run, people: Dataset) -> None:
    code, _, err = run("evaluate", *settings(people, data__repeat=2**31 - 1))
    assert code == 2
    assert "data.repeat: 12 images 2147483647 times" in err


def test_more_workers_than_a_machine_can_run_are_a_usage_error(run: Run, people: Dataset) -> None:
    code, _, err = run("evaluate", *settings(people, devices="cpu:99999"))
    assert code == 2
    assert "devices: 99999 of them" in err
