"""Tests of few rates give the probabilities that counting gives."""

from itertools import permutations

import pytest

from distributed_pose.metrics.rank_tests import rank_test, sign_test


@pytest.mark.parametrize(
    ("rates", "expected"), [([1, 2, 3], 1 / 8), ([1, 2, 9], 4 / 8), ([8, 9, 9], 1.0)]
)
def test_the_sign_test_counts_the_rates_below(rates: list[float], expected: float) -> None:
    assert sign_test(rates, 5) == pytest.approx(expected)


@pytest.mark.parametrize("first", [(0, 1, 2), (0, 2, 5), (1, 3, 4), (4, 5, 6)])
def test_the_rank_test_counts_the_orders_that_are_as_low(first: tuple[int, ...]) -> None:
    def not_lower(chosen: tuple[int, ...]) -> int:
        return sum(rate >= other for rate in chosen for other in {*range(7)} - {*chosen})

    orders = [not_lower(order[:3]) for order in permutations(range(7))]
    expected = sum(one <= not_lower(first) for one in orders) / len(orders)
    assert rank_test(first, [*({*range(7)} - {*first})]) == pytest.approx(expected)


def test_equal_rates_are_not_lower() -> None:
    assert rank_test([5, 5, 5], [5, 5, 5]) == pytest.approx(1)
    assert rank_test([1, 2, 3], [4, 5, 6]) == pytest.approx(0.05)
