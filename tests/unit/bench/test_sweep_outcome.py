"""The record of a sweep has the front and the best point by each measure."""

from pathlib import Path
from typing import Any

import pytest

from distributed_pose import parse_config
from distributed_pose.bench.sweep.outcome import check_gates, summed_up
from distributed_pose.bench.sweep.plan import SweepPlan
from distributed_pose.bench.sweep.points import sweep_points
from distributed_pose.bench.sweep.record import PointRecord, SweepRecord
from distributed_pose.errors import GateError
from distributed_pose.locations import Location


def point(name: str, ap: float | None, rate: float | None, **values: Any) -> PointRecord:
    settings: dict[str, Any] = {"outcome": "finished", "images": 100, "evaluated": 100, **values}
    return PointRecord(name=name, label=name, settings={}, ap=ap, images_per_s=rate, **settings)


# The card is fast, and the small processor is frugal.
CARD = point("card", 0.6, 100.0, images_per_joule=1.0, images_per_cost=200.0)
SMALL = point("small", 0.6, 10.0, images_per_joule=4.0, images_per_cost=400.0)
ACCURATE = point("accurate", 0.8, 5.0, images_per_joule=0.5)
POINTS = (CARD, SMALL, ACCURATE)


def record(*points: PointRecord, **gates: Any) -> SweepRecord:
    config = parse_config({})
    plan = SweepPlan(
        config=config, points=sweep_points(config, {}), output=Location(Path("sweep")), **gates
    )
    return summed_up(plan, {}, [25, 50, 100], points, complete=True)


def test_each_measure_has_its_front_of_the_points_that_know_it() -> None:
    found = record(*POINTS)
    assert found.fronts == {
        "images_per_s": ("accurate", "card"),
        "images_per_joule": ("accurate", "small"),
        "images_per_cost": ("small",),
    }
    assert found.points[1].fronts == ("images_per_joule", "images_per_cost")
    assert found.best == {}


def test_with_a_least_ap_the_best_point_has_most_of_the_measure() -> None:
    assert record(*POINTS, min_ap=0.6).best == {
        "images_per_s": "card",
        "images_per_joule": "small",
        "images_per_cost": "small",
    }
    assert record(*POINTS, min_ap=0.7).best == dict.fromkeys(
        ("images_per_s", "images_per_joule"), "accurate"
    )
    assert record(*POINTS, min_ap=0.6, min_images_per_s=50.0).best["images_per_joule"] == "card"


def test_with_a_least_rate_the_best_point_is_the_most_accurate() -> None:
    assert record(*POINTS, min_images_per_s=5.0).best["images_per_s"] == "accurate"
    assert record(*POINTS, min_images_per_s=8.0).best["images_per_s"] == "card"


def test_points_that_are_not_finished_are_neither_on_the_front_nor_best() -> None:
    ended = point("ended", 0.9, 900.0, outcome="ended", images=25, evaluated=25)
    failed = point("failed", 0.9, 900.0, outcome="failed")
    unknown = point("unknown", None, None)
    found = record(*POINTS, ended, failed, unknown, min_ap=0.1)
    assert found.fronts["images_per_s"] == ("accurate", "card")
    assert found.best["images_per_s"] == "card"
    assert (found.saved_images, found.saved_s) == (75, pytest.approx(75 / 900))


def test_gates_that_no_point_reaches_name_the_nearest_points() -> None:
    check_gates(record(*POINTS))
    check_gates(record(*POINTS, min_ap=0.8))
    with pytest.raises(GateError) as caught:
        check_gates(record(*POINTS, min_ap=0.7, min_images_per_s=50.0))
    assert str(caught.value) == (
        "no point reaches --min-ap 0.7 and --min-images-per-s 50: the most accurate is accurate "
        "with AP 0.8000 over 100 images; the fastest is card with 100.00 images/s"
    )
