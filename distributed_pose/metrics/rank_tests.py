"""Exact one-sided tests of whether few measured rates are low by chance."""

from collections.abc import Sequence
from math import comb

import numpy as np

from distributed_pose.metrics.matches import Floats

# A result that chance gives with at most this probability is more than chance.
SIGNIFICANCE = 0.05


def sign_test(rates: Sequence[float], least: float) -> float:
    """Returns the probability that as many rates are below their true median `least` by chance."""
    count, below = len(rates), sum(rate < least for rate in rates)
    ways = sum(comb(count, number) for number in range(below, count + 1))
    return float(ways / 2**count)


def rank_test(rates: Sequence[float], others: Sequence[float]) -> float:
    """Returns the probability that rates are as low beside the others by chance.

    It is the p-value of the Mann-Whitney test; equal rates count as not lower.

    Args:
        rates: rates that may be lower.
        others: rates to compare with.
    """
    not_lower = sum(rate >= other for rate in rates for other in others)
    ways = _ways(len(rates), len(others))
    return float(ways[: not_lower + 1].sum() / ways.sum())


def _ways(first: int, second: int) -> Floats:
    """Returns the number of orders of two samples, by the number of pairs that are not lower."""
    pairs = first * second
    ways = np.zeros((first + 1, pairs + 1))
    ways[0, 0] = 1
    # Each of the other sample's positions adds the number of earlier members that it exceeds.
    for position in range(first + second):
        for chosen in range(min(first, position + 1), 0, -1):
            exceeded = position - (chosen - 1)
            if exceeded <= second:
                ways[chosen, exceeded:] += ways[chosen - 1, : pairs + 1 - exceeded]
    return np.asarray(ways[first], np.float64)
