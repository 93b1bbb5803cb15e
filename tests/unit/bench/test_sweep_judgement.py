"""A point ends early only where it is surely dominated, or surely below a gate."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distributed_pose.bench.sweep.judgement import (
    Figures,
    Judge,
    with_common_spread,
    within_error,
)

SPREAD = np.random.default_rng(1).normal(0, 0.02, 400)
JUDGE = Judge(comparisons=10)


def figures(ap: float, rate: float, **other: Any) -> Figures:
    """Returns figures whose resamplings vary as those of any other point do."""
    found = Figures(
        images=64,
        ap=ap,
        aps_S=ap + SPREAD,
        images_per_s=rate,
        session_rates=(rate, rate),
        within_error=0.05 / math.sqrt(2),
    )
    return replace(found, **other)


def reason(point: Figures, *others: Figures, judge: Judge = JUDGE) -> str:
    return judge.reason_to_end(point, [(f"point {n}", one) for n, one in enumerate(others, 1)])


def test_a_slower_point_that_is_no_more_accurate_is_dominated() -> None:
    text = reason(figures(0.5, 10), figures(0.5, 20))
    assert (
        text
        == "dominated by point 1: 2.00 times as fast (at least 1.64), AP +0.0000 (at least +0.0000)"
    )
    assert reason(figures(0.5, 20), figures(0.5, 10)) == ""


def test_of_several_dominating_points_the_fastest_is_named() -> None:
    text = reason(figures(0.5, 10), figures(0.6, 20), figures(0.55, 30), figures(0.4, 90))
    assert text.startswith("dominated by point 2: 3.00 times as fast")


def test_a_slower_point_that_is_more_accurate_goes_on() -> None:
    assert reason(figures(0.51, 10), figures(0.5, 20)) == ""


def test_equal_points_both_go_on() -> None:
    assert reason(figures(0.5, 10), figures(0.5, 10)) == ""


@pytest.mark.parametrize("rate", [10.0, 10.5, 12.0])
def test_a_rate_within_its_interval_ends_no_point(rate: float) -> None:
    assert reason(figures(0.5, 10), figures(0.6, rate)) == ""


def test_an_ap_within_its_interval_ends_no_point() -> None:
    other = np.random.default_rng(2).normal(0, 0.02, 400)
    assert reason(figures(0.5, 10), figures(0.53, 20, aps_S=0.53 + other)) == ""
    assert reason(figures(0.5, 10), figures(0.7, 20, aps_S=0.7 + other))


def test_an_unknown_rate_ends_no_point() -> None:
    unknown = figures(0.9, 99, within_error=None)
    assert reason(figures(0.5, 10), unknown) == ""
    assert reason(replace(unknown, ap=0.1), figures(0.5, 1000)) == ""


def test_a_tolerance_lets_a_slightly_less_accurate_point_end_a_slower_one() -> None:
    tolerant = replace(JUDGE, tolerance=0.02)
    assert reason(figures(0.51, 10), figures(0.5, 20), judge=tolerant).startswith("dominated")
    assert reason(figures(0.53, 10), figures(0.5, 20), judge=tolerant) == ""


def test_a_tolerance_does_not_end_a_point_for_one_that_may_miss_the_least_ap() -> None:
    judge = replace(JUDGE, tolerance=0.02, min_ap=0.5)
    assert reason(figures(0.51, 10), figures(0.5, 20), judge=judge) == ""
    assert reason(figures(0.71, 10), figures(0.7, 20), judge=judge).startswith("dominated")


def test_a_point_surely_below_a_gate_ends() -> None:
    judge = replace(JUDGE, min_ap=0.6, min_images_per_s=20)
    assert reason(figures(0.5, 50), judge=judge).startswith("AP 0.5000, at most 0.55")
    assert "below --min-ap 0.6" in reason(figures(0.5, 50), judge=judge)
    assert reason(figures(0.58, 50), judge=judge) == ""
    assert "are below --min-images-per-s 20" in reason(figures(0.7, 15), judge=judge)
    assert reason(figures(0.7, 19), judge=judge) == ""


def test_a_slower_point_goes_on_if_it_is_better_per_joule_or_price() -> None:
    frugal = figures(0.5, 10, per={"images_per_joule": 2.0})
    assert reason(frugal, figures(0.6, 20, per={"images_per_joule": 1.0})) == ""
    assert reason(frugal, figures(0.6, 20)) == ""
    assert reason(frugal, figures(0.6, 20, per={"images_per_joule": 4.0}))


def test_more_comparisons_need_more_certainty() -> None:
    pair = figures(0.5, 10), figures(0.6, 12.5)
    assert reason(*pair, judge=Judge(comparisons=1)).startswith("dominated")
    assert reason(*pair, judge=Judge(comparisons=100)) == ""


def test_the_chance_to_end_a_point_that_is_as_good_is_small() -> None:
    generator = np.random.default_rng(3)
    ended = 0
    for _ in range(500):
        (ap, other_ap), (rate, other) = (
            0.5 + 0.02 * generator.normal(size=2),
            generator.normal(size=2),
        )
        point = figures(ap, 10 * math.exp(0.05 * rate))
        rival = figures(other_ap, 10 * math.exp(0.05 * other))
        ended += bool(reason(point, rival, judge=Judge(comparisons=1)))
    assert ended < 0.025 * 500


def test_the_error_of_a_rate_is_that_of_its_simulations() -> None:
    generator = np.random.default_rng(4)
    times = generator.gamma(4, 0.25, (300, 40))
    rates = [math.log(8 * 40 / one.sum()) for one in times]
    known = [within_error((8, second) for second in one) for one in times]
    assert np.mean([one for one in known if one]) == pytest.approx(np.std(rates), rel=0.1)


def test_few_results_have_no_error_of_their_rate() -> None:
    steady = [(8, 0.1)] * 5
    assert within_error(steady[:4]) is None
    assert within_error([]) is None
    assert within_error(steady) == 0


def test_one_session_ends_no_point_by_its_rate() -> None:
    once = figures(0.5, 10, session_rates=(10.0,))
    assert once.rate_interval is not None
    assert reason(once, figures(0.6, 90)) == ""
    assert reason(figures(0.5, 10), figures(0.6, 90, session_rates=(90.0,))) == ""
    assert reason(once, judge=replace(JUDGE, min_images_per_s=90)) == ""
    assert reason(once, judge=replace(JUDGE, min_ap=0.9))


def test_sessions_that_differ_widen_the_intervals_of_all_points() -> None:
    calm = [figures(0.5, 10), figures(0.6, 20)]
    assert with_common_spread(calm) == calm
    assert reason(*with_common_spread(calm))
    busy = [figures(0.5, 10, session_rates=(5.0, 20.0)), figures(0.6, 20)]
    shared = with_common_spread(busy)
    assert shared[0].spread == shared[1].spread == pytest.approx(math.log(4) / 2)
    assert reason(*shared) == ""
    assert with_common_spread([figures(0.5, 10, session_rates=(10.0,))])[0].spread == 0.05


def test_the_intervals_are_those_of_the_errors() -> None:
    found = figures(0.5, 10)
    assert found.ap_interval.high - 0.5 == pytest.approx(1.96 * np.std(SPREAD), rel=1e-3)
    assert found.rate_interval is not None
    assert found.rate_interval.high == pytest.approx(10 * math.exp(1.96 * 0.05), rel=1e-3)
