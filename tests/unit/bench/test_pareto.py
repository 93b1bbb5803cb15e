"""The Pareto front has the points that no other one dominates."""

from hypothesis import given
from hypothesis import strategies as st

from distributed_pose.bench.sweep.pareto import front

# Few values, so that ties are frequent.
FIGURES = st.tuples(st.integers(0, 5), st.integers(0, 5))


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def test_a_single_point_is_the_front() -> None:
    assert front({"only": (1.0, 0.5)}) == ("only",)
    assert front({}) == ()


def test_dominated_points_are_left_out_and_the_rest_is_in_the_order_of_the_rate() -> None:
    points = {"fast": (9.0, 0.3), "slow": (2.0, 0.8), "worse": (1.0, 0.7), "middle": (5.0, 0.6)}
    assert front(points) == ("slow", "middle", "fast")


def test_points_with_equal_figures_are_both_on_the_front() -> None:
    assert set(front({"one": (3.0, 0.5), "two": (3.0, 0.5)})) == {"one", "two"}


def test_a_tie_in_one_figure_is_decided_by_the_other_one() -> None:
    assert front({"better": (3.0, 0.6), "worse": (3.0, 0.5)}) == ("better",)
    assert front({"faster": (4.0, 0.5), "slower": (3.0, 0.5)}) == ("faster",)


@given(st.dictionaries(st.text(max_size=3), FIGURES, max_size=12))
def test_the_front_is_that_of_all_pairs(points: dict[str, tuple[float, float]]) -> None:
    expected = {
        name
        for name in points
        if not any(dominates(other, points[name]) for other in points.values())
    }
    found = front(points)
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [points[name][0] for name in found] == sorted(points[name][0] for name in found)
