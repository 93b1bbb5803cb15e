"""The benchmark commands print figures that are consistent, as tables and as JSON."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distributed_pose import ConfigError, ExecutionError
from distributed_pose.bench.host import STAGES
from distributed_pose.cli.main import app
from distributed_pose.pose.limits import MAX_CANDIDATES, MAX_PAIRS
from tests.conftest import Dataset
from tests.tiny_models import save_constant_model


def arguments(dataset: Dataset, *more: str) -> list[str]:
    keys = {
        "data.images": dataset.images,
        "data.annotations": dataset.annotations,
        "data.limit": 4,
        "backend": "oracle",
        "engine": "inline",
    }
    return [*(w for key, value in keys.items() for w in ("--set", f"{key}={value}")), *more]


@pytest.mark.parametrize("profile", ["modelzoo", "uint8"])
def test_the_cost_of_the_host_is_that_of_its_stages(people: Dataset, profile: str) -> None:
    options = arguments(people, "--set", f"profile={profile}", "--repeat", "2", "--json")
    result = CliRunner().invoke(app, ["bench", "host", *options])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    stages = {name: cost["median_us"] for name, cost in report["stages"].items()}
    assert (report["num_images"], report["profile"]) == (4, profile)
    assert report["poses"] > 0
    assert list(stages) == list(STAGES)
    assert all(cost > 0 for cost in stages.values())
    assert max(stages.values()) < report["host"]["median_us"]
    assert report["speedup"] > 1


def test_the_decoders_worst_maps_come_close_to_the_limits_or_are_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "decoder", "--repeat", "1", "--json"])
    assert result.exit_code == 0
    cases = json.loads(result.stdout)["cases"]
    assert [bool(case["failure"]) for case in cases] == [False, False, True, True]
    assert all(0.8 * MAX_PAIRS < case["pairs"] <= MAX_PAIRS for case in cases[:2])
    assert max(case["candidates"] for case in cases) > 0.9 * MAX_CANDIDATES
    # They take 0.2 s; a machine that does other work shares its caches.
    assert max(case["max_ms"] for case in cases) < 1000


def test_a_whole_run_is_compared_with_the_bare_model(people: Dataset, tmp_path: Path) -> None:
    options = arguments(people, "--repeat", "2", "--json")
    result = CliRunner().invoke(app, ["bench", "pipeline", *options])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    pairs = zip(report["whole_images_per_s"], report["bare_images_per_s"], strict=True)
    first, second = (whole / bare for whole, bare in pairs)
    assert report["ratio"] == pytest.approx((first + second) / 2)
    assert 0 < report["outside_compute_share"] < 1
    assert report["num_images"] == 4
    assert report["ap"] > 0.5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["host", "pipeline"])
def test_figures_are_tables_for_people(people: Dataset, command: str) -> None:
    result = CliRunner().invoke(app, ["bench", command, *arguments(people, "--repeat", "1")])
    assert result.exit_code == 0
    assert "modelzoo" in result.stdout or "bare model" in result.stdout
    assert "preprocess" in result.stdout


@pytest.mark.parametrize("content", [None, b"no image"])
@pytest.mark.parametrize("command", ["host", "pipeline"])
def test_an_image_that_cannot_be_read_is_a_clean_error(
    people: Dataset, tmp_path: Path, command: str, content: bytes | None
) -> None:
    shutil.copytree(people.images, tmp_path / "images")
    first = min((tmp_path / "images").iterdir())
    first.unlink()
    if content:
        first.write_bytes(content)
    broken = Dataset(tmp_path / "images", people.annotations)
    result = CliRunner().invoke(app, ["bench", command, *arguments(broken)])
    assert isinstance(result.exception, ExecutionError)
    assert "image" in str(result.exception)


def test_a_wrong_setting_is_named(people: Dataset) -> None:
    result = CliRunner().invoke(app, ["bench", "host", *arguments(people, "--set", "gather=pose")])
    assert "gather" in str(result.exception)
    assert "poses" in str(result.exception)


def test_a_sweep_finds_the_best_batch_size_of_a_device(people: Dataset) -> None:
    options = arguments(people, "--set", "backend=simulated:ascend310p3", "--seconds", "0.3")
    result = CliRunner().invoke(app, ["bench", "device", *options, "--batch", "64,4,1", "--json"])
    assert result.exit_code == 0
    (device,) = json.loads(result.stdout)
    assert [row["batch_size"] for row in device["batches"]] == [1, 4, 64]
    assert device["best_batch_size"] == 4
    assert (device["name"], device["backend"]) == ("cpu:0", "simulated:ascend310p3")
    for row in device["batches"]:
        names = ("min_ms", "median_ms", "p90_ms", "p99_ms", "max_ms")
        times = [row[name] for name in names]
        assert times == sorted(times)
        assert row["count"] >= 3
        # Nothing is copied, and one batch follows the other.
        assert row["latency_median_ms"] == row["median_ms"]
        assert row["latency_p99_ms"] == row["p99_ms"]
        assert row["throughput_images_per_s"] > 0


def test_copies_are_part_of_latency_and_not_of_compute_only(people: Dataset) -> None:
    simulated = {"rate": 222.2222222, "jitter": 0.0, "copy_in_ms": 1.0, "copy_out_ms": 1.0}
    keys = {"backend": "simulated", **{f"simulated.{k}": v for k, v in simulated.items()}}
    options = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    sizes = ["--seconds", "0.2", "--batch", "1,2", "--json"]
    result = CliRunner().invoke(app, ["bench", "device", *arguments(people), *options, *sizes])
    (device,) = json.loads(result.stdout)
    assert device["best_batch_size"] == 1
    for row, images in zip(device["batches"], (1, 2), strict=True):
        assert row["median_ms"] == row["max_ms"] == pytest.approx(4.5 * images, abs=1e-4)
        assert row["latency_median_ms"] == pytest.approx(6.5 * images, abs=1e-4)
        assert row["images_per_s"] == pytest.approx(1e3 / 4.5)
        # No batch is executed before the one ahead of it.
        assert row["throughput_images_per_s"] < 1e3 / 4.5


def test_a_sweep_is_a_table_for_people_that_marks_the_best(people: Dataset) -> None:
    options = arguments(people, "--seconds", "0", "--batch", "1,2")
    result = CliRunner().invoke(app, ["bench", "device", *options])
    assert result.exit_code == 0
    assert "cpu:0" in result.stdout
    assert " *" in result.stdout
    assert "best by the median" in result.stdout


def test_sizes_that_a_device_cannot_take_are_left_out_and_the_others_kept(
    people: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_constant_model(tmp_path / "model.onnx", most=2)
    options = ["--set", "backend=onnxruntime", "--set", f"model.path={path}"]
    sizes = ["--seconds", "0", "--batch", "1,2,4,8", "--json"]
    result = CliRunner().invoke(app, ["bench", "device", *arguments(people), *sizes, *options])
    (device,) = json.loads(result.stdout)
    assert [row["batch_size"] for row in device["batches"]] == [1, 2]
    assert "batches of 4 and more are left out" in caplog.text


@pytest.mark.parametrize("text", ["", "0", "1,,2", "a", "-1", "1.5", "99999"])
def test_invalid_batch_sizes_are_named(people: Dataset, text: str) -> None:
    result = CliRunner().invoke(app, ["bench", "device", *arguments(people, f"--batch={text}")])
    assert f"--batch {text}: expected counts" in str(result.exception)


@pytest.mark.slow
def test_the_driver_costs_the_same_per_image_with_any_number_of_devices() -> None:
    options = ["--devices", "2,64", "--images", "19999", "--json"]
    result = CliRunner().invoke(app, ["bench", "driver", *options])
    assert result.exit_code == 0
    few, many = json.loads(result.stdout)
    assert (few["devices"], many["devices"], many["images"]) == (2, 64, 19_999)
    # A loop that walks all devices per result takes ten times as long with 64 of them.
    assert 0 < many["cpu_us_per_image"] < 4 * few["cpu_us_per_image"]
    assert few["ledger_bytes_per_image"] > 800
    # pycocotools alone takes 18 kB per image if it evaluates all images at once.
    assert few["memory_bytes_per_image"] < few["peak_bytes_per_image"] < 9000
    table = CliRunner().invoke(app, ["bench", "driver", "--devices", "3", "--images", "100"])
    assert "Ray's time per call is not included" in " ".join(table.stdout.split())


@pytest.mark.slow
def test_a_run_has_the_same_score_however_many_drivers_share_it() -> None:
    reports = []
    for drivers, images in (("1", "4096"), ("4", "1024")):
        options = ["--drivers", drivers, "--devices", "3", "--images", images, "--json"]
        result = CliRunner().invoke(app, ["bench", "driver", *options])
        assert result.exit_code == 0, result.output
        reports += json.loads(result.stdout)
    one, four = reports
    assert (one["images"], four["images"]) == (4096, 4096)
    assert (one["devices"], four["drivers"], four["devices"]) == (3, 4, 12)
    assert one["ap"] == four["ap"]
    assert 0 < one["ap"]["AP"] < 1


@pytest.mark.parametrize("more", [["--drivers", "0"], ["--drivers", "2", "--devices", "1,4"]])
def test_drivers_that_cannot_be_measured_are_named(more: list[str]) -> None:
    result = CliRunner().invoke(app, ["bench", "driver", *more])
    assert isinstance(result.exception, ConfigError)
    assert "--drivers" in str(result.exception)


@pytest.mark.slow
def test_costs_of_several_drivers_are_labelled_as_simulated() -> None:
    options = ["--drivers", "2", "--devices", "1", "--images", "160"]
    result = CliRunner().invoke(app, ["bench", "driver", *options])
    assert "simulated: the drivers ran one after another" in " ".join(result.stdout.split())
