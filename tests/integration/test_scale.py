"""Scaling experiments and capacity plans, with simulated devices."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from distributed_pose import ConfigError, ExecutionError, SetupError
from distributed_pose.bench import scale as module
from distributed_pose.bench.scale import run_scaling
from distributed_pose.cli.main import app
from distributed_pose.config.schema import RunConfig
from distributed_pose.evaluation import evaluate
from tests.conftest import Dataset

SLOW = {"rate": 20.0, "jitter": 0.0}


def simulated(dataset: Dataset, **values: object) -> RunConfig:
    data = {"read": "worker", "repeat": 4}
    defaults = {"backend": "simulated", "engine": "ray", "gather": "poses", "batch_size": 2}
    return dataset.config(**{**defaults, "simulated": SLOW, "data": data, **values})


def options(dataset: Dataset, *more: str) -> list[str]:
    keys = {
        "data.images": dataset.images,
        "data.annotations": dataset.annotations,
        "data.repeat": 2,
        "backend": "simulated",
        "simulated.rate": 40.0,
        "engine": "inline",
    }
    return [*(w for key, value in keys.items() for w in ("--set", f"{key}={value}")), *more]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_each_count_has_its_figures_and_all_have_one_ap(people: Dataset) -> None:
    done: list[tuple[int, int]] = []
    report = run_scaling(simulated(people), [2, 1], 1, lambda *counts: done.append(counts))
    one, two = report.points
    assert (one.devices, two.devices) == (1, 2)
    assert (one.speed_up, one.efficiency, one.bound_by) == (1.0, 1.0, "devices")
    assert two.speed_up == pytest.approx(two.wall_images_per_s / one.wall_images_per_s)
    assert two.efficiency == pytest.approx(two.speed_up / 2)
    assert one.ap == two.ap
    assert one.ap["AP"] > 0.8
    assert (one.images, two.images) == (48, 48)
    assert one.cpu_us["workers"] > one.cpu_us["driver"] > 0
    assert one.stage_us["decode_jpeg"] > 0
    assert done == [(2, 1), (2, 2)]
    assert (report.scaling, report.read, report.cores) == ("strong", "worker", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_weak_scaling_has_the_same_images_for_each_device(people: Dataset) -> None:
    config = simulated(people, data={"read": "worker", "repeat": 1}, gather="maps")
    report = run_scaling(config, [1, 2], 1, lambda *_: None, weak=True)
    assert [point.images for point in report.points] == [12, 24]
    assert report.scaling == "weak"
    assert min(point.object_store_bytes for point in report.points) > 100_000


def test_runs_of_the_same_images_with_another_ap_are_an_error(people: Dataset) -> None:
    report = evaluate(people.config())
    other = replace(report, ap={**(report.ap or {}), "AP": 0.5})
    with pytest.raises(ExecutionError, match="AP differs between runs"):
        module._check_ap({1: [report], 2: [other]}, weak=False)
    module._check_ap({1: [report], 2: [other]}, weak=True)
    with pytest.raises(ExecutionError, match="AP differs"):
        module._check_ap({1: [report, other]}, weak=True)


@pytest.mark.parametrize(
    ("cpu_s", "straggler_share", "expected"),
    [
        ({"driver": 1.0, "cpu:0": 18.0}, 0.0, "host CPUs"),
        ({"driver": 9.5, "cpu:0": 2.0}, 0.0, "driver process"),
        ({"driver": 1.0, "reducer:0": 9.0}, 0.0, "reducer process"),
        ({"driver": 1.0}, 0.6, "stragglers"),
        ({"driver": 1.0}, 0.0, "waits in the host"),
    ],
)
def test_poor_scaling_is_attributed_to_what_limits_it(
    people: Dataset, cpu_s: dict[str, float], straggler_share: float, expected: str
) -> None:
    report = evaluate(people.config())
    throughput = replace(report.throughput, wall_s=10.0, straggler_share=straggler_share)
    use = replace(report.host_use, cpu_s=cpu_s, cores=2)
    run = replace(report, throughput=throughput, host_use=use)
    busy = sum(cpu_s.values()) / 20
    assert module._bound_by(run, 0.5, busy) == expected
    assert module._bound_by(run, 0.96, busy) == "devices"


def test_the_command_writes_figures_and_plots(people: Dataset, tmp_path: Path) -> None:
    arguments = ["scale", "--devices", "1,2", "--repeat", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, *options(people)])
    assert result.exit_code == 0, result.output
    assert "efficiency" in result.stdout
    assert "simulated, 40 images/s" in result.stdout
    written = json.loads((tmp_path / "scaling.json").read_text())
    assert [point["devices"] for point in written["points"]] == [1, 2]
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert ET.parse(tmp_path / "scaling.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("text", ["", "0", "1,,2", "a", "-1"])
def test_invalid_counts_are_named(people: Dataset, text: str) -> None:
    result = CliRunner().invoke(app, ["scale", f"--devices={text}", *options(people)])
    assert isinstance(result.exception, ConfigError)
    assert f"--devices {text}: expected counts" in str(result.exception)


def test_recorded_maps_do_not_scale(people: Dataset) -> None:
    more = ["--set", "backend=recorded", "--set", "model.path=maps"]
    result = CliRunner().invoke(app, ["scale", *options(people, *more)])
    assert isinstance(result.exception, ConfigError)
    assert "nothing to measure" in str(result.exception)


def test_a_plan_from_saved_costs_names_the_bottleneck(tmp_path: Path) -> None:
    costs = {
        "cores": 2,
        "ceiling_images_per_s": 400.0,
        "device_share": 1.0,
        "cpu_us": {"driver": 50.0},
        "object_store_bytes": 0.0,
        "gather": "poses",
        "read": "worker",
        "batch_size": 16,
    }
    (tmp_path / "costs.json").write_text(json.dumps(costs))
    arguments = ["plan", "--costs", str(tmp_path / "costs.json"), "--devices"]
    cores = ["--hosts", "2", "--cores", "8", "--images", "5e6"]
    result = CliRunner().invoke(app, [*arguments, "ascend310p3=8", *cores])
    assert result.exit_code == 0, result.output
    assert "host cores" in result.stdout
    assert "3,200" in result.stdout
    result = CliRunner().invoke(app, [*arguments, "ascend310p3=8", *cores, "--input", "256x456"])
    assert "is an estimate" in " ".join(result.stdout.split())
    for text in ("t4", "t4=0", "=2", "t4=2;t4=2"):
        with pytest.raises(ConfigError, match="expected NAME=COUNT or RATE=COUNT"):
            CliRunner().invoke(app, [*arguments, text], catch_exceptions=False)
    (tmp_path / "costs.json").write_text(json.dumps({**costs, "input": "368x640"}))
    with pytest.raises(SetupError, match="costs of inputs of 368x640, and the plan is for 256x456"):
        CliRunner().invoke(app, [*arguments, "t4=2", "--input=256x456"], catch_exceptions=False)
    (tmp_path / "costs.json").write_text("{}")
    with pytest.raises(SetupError, match="cannot read costs"):
        CliRunner().invoke(app, [*arguments, "t4=2"], catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.parametrize("images", ["0", "nan", "1e16"])
def test_a_plan_of_an_impossible_number_of_images_is_refused(images: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--devices", "t4=1", "--images", images])
    assert result.exit_code == 2
    assert "from 1 to 1e15" in result.output


@pytest.mark.slow
def test_a_plan_measures_its_costs_and_is_checked_by_a_run(people: Dataset, tmp_path: Path) -> None:
    kept = tmp_path / "costs.json"
    arguments = ["plan", "--devices", "30=2", "--check", "--save", str(kept)]
    more = ["--set", "engine=ray", "--set", "gather=poses", "--set", "data.read=worker"]
    result = CliRunner().invoke(app, [*arguments, *options(people, *more)])
    assert result.exit_code == 0, result.output
    assert "planned / measured" in " ".join(result.stdout.split())
    assert "of the cores' time" in " ".join(result.stdout.split())
    costs = json.loads(kept.read_text())
    assert costs["ceiling_images_per_s"] > 0
    assert 0.3 < costs["device_share"] <= 1
    assert (costs["gather"], costs["read"], costs["device_images_per_s"]) == ("poses", "worker", 30)
    assert costs["prepare_ms"] > 0
    assert costs["group_ms"] > 0
