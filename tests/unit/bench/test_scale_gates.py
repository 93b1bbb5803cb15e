"""Gates of scaling experiments name the figure, by how much it falls short, and the chance."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from distributed_pose import SetupError
from distributed_pose.bench.scale import ScalePoint, ScaleReport
from distributed_pose.bench.scale_gates import check_scaling, read_baseline
from distributed_pose.errors import GateError
from distributed_pose.report.gates import Gates

POINT = ScalePoint(
    devices=4,
    images=48,
    runs_images_per_s=(99.0, 100.0, 101.0),
    wall_images_per_s=100.0,
    compute_images_per_s=110.0,
    speed_up=4.0,
    efficiency=1.0,
    straggler_share=0.0,
    host_busy_share=0.1,
    cpu_us={"driver": 1.0},
    stage_us={"compute": 1.0},
    object_store_bytes=0.0,
    ap={"AP": 0.8},
    bound_by="devices",
)
BEFORE = Gates(tolerance=0.0, rate_tolerance=0.1)


def slower(*runs: float) -> ScalePoint:
    return replace(POINT, runs_images_per_s=runs, wall_images_per_s=sorted(runs)[len(runs) // 2])


def shortfall(gates: Gates, point: ScalePoint, baseline: ScalePoint | None = None) -> str:
    with pytest.raises(GateError, match=r"^4 devices: ") as caught:
        check_scaling(gates, point, baseline)
    return str(caught.value)


def test_figures_that_reach_their_gates_pass() -> None:
    check_scaling(Gates(min_ap=0.8, min_images_per_s=100), POINT)
    check_scaling(BEFORE, slower(90.5, 91, 92), POINT)


def test_ap_below_its_gate_is_of_unknown_chance() -> None:
    text = shortfall(Gates(min_ap=0.85), POINT)
    assert "AP 0.8000 is 0.0500 below --min-ap 0.85, of unknown chance" in text
    assert "no AP" in shortfall(Gates(min_ap=0.1), replace(POINT, ap={}))
    assert "no AP" in shortfall(Gates(min_ap=0.1), replace(POINT, ap={"AP": -1.0}))
    worse = replace(POINT, ap={"AP": 0.75})
    assert "is 0.0500 below the 0.8000 of the baseline" in shortfall(BEFORE, worse, POINT)
    assert "the baseline has 0.8" in shortfall(BEFORE, replace(POINT, ap={}), POINT)


@pytest.mark.parametrize(
    ("runs", "chance"),
    [
        ((80.0, 81.0, 82.0), "more than chance (p = 0.05)"),
        ((70.0, 80.0, 120.0), "within chance (p = 0.35)"),
        ((80.0,), "of unknown chance (too few runs"),
    ],
)
def test_throughput_behind_the_baseline_is_named_with_its_chance(
    runs: tuple[float, ...], chance: str
) -> None:
    text = shortfall(BEFORE, slower(*runs), POINT)
    assert "below the 100.00 of the baseline, over the tolerance of 10.0%" in text
    assert chance in text


def test_a_baseline_of_other_images_is_refused() -> None:
    with pytest.raises(SetupError, match="runs of 96 images, and this one of 48"):
        check_scaling(BEFORE, POINT, replace(POINT, images=96))


def test_a_baseline_is_read_for_one_number_of_devices(tmp_path: Path) -> None:
    report = ScaleReport(
        scaling="strong",
        backend="simulated",
        description="t4",
        gather="poses",
        read="worker",
        batch_size=8,
        cores=2,
        points=(replace(POINT, devices=1), POINT),
    )
    with pytest.raises(SetupError, match="cannot read the baseline"):
        read_baseline(tmp_path, 4, "strong")
    (tmp_path / "scaling.json").write_text(json.dumps(asdict(report)))
    assert read_baseline(tmp_path, 4, "strong") == POINT
    for devices, scaling in ((8, "strong"), (4, "weak")):
        with pytest.raises(SetupError, match="strong scaling with 1, 4 devices, and not"):
            read_baseline(tmp_path, devices, scaling)
