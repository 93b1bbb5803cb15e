"""Intervals of AP and of throughput by resampling, with a seed.

Copies of an image add no information, so that each resampling draws original images with all
their copies.

Array legend: O original images, R runs, S resamplings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distributed_pose.metrics.matches import Floats
from distributed_pose.metrics.precision_recall import PrecisionRecall

RESAMPLINGS = 1000
CONFIDENCE = 0.95

_SEED = 0

# Fewer segments say nothing about the spread of a rate.
_LEAST_SEGMENTS = 5


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with its 95 % interval.

    Attributes:
        value: figure without resampling.
        low: lower end of the interval.
        high: upper end of the interval.
        resamplings: number of resamplings that the interval is made from.
    """

    value: float
    low: float
    high: float
    resamplings: int = RESAMPLINGS

    def covers(self, value: float) -> bool:
        """Returns whether a value is in the interval."""
        return self.low <= value <= self.high


def ap_interval(run: PrecisionRecall, resamplings: int = RESAMPLINGS) -> Interval | None:
    """Returns AP with its interval over original images; None without labelled people.

    Args:
        run: precision and recall of a run.
        resamplings: number of resamplings.
    """
    return _interval((run,), lambda aps: aps[0], resamplings)


def ap_difference(
    first: PrecisionRecall,
    second: PrecisionRecall,
    resamplings: int = RESAMPLINGS,
    seed: int = _SEED,
) -> Interval | None:
    """Returns AP of the second run less that of the first; None without labelled people.

    The bootstrap is paired: every resampling draws the same images for both runs.

    Args:
        first: precision and recall of the first run.
        second: precision and recall of the second run, over the same images in the same order.
        resamplings: number of resamplings.
        seed: seed of the resamplings.
    """
    return _interval((first, second), lambda aps: aps[1] - aps[0], resamplings, seed)


def resampled_aps(
    run: PrecisionRecall, resamplings: int = RESAMPLINGS, seed: int = _SEED
) -> Floats:
    """Returns AP of each resampling of a run's images, [S]; -1 for one without labelled people.

    Runs over the same images have the same resamplings, so that their differences are paired.

    Args:
        run: precision and recall of a run.
        resamplings: number of resamplings.
        seed: seed of the resamplings.
    """
    generator = np.random.default_rng(seed)
    num_originals = run.num_originals
    aps_S = np.empty(resamplings)
    for number in range(resamplings):
        drawn_O = generator.integers(0, num_originals, num_originals)
        aps_S[number] = run.ap(run.weights(np.bincount(drawn_O, minlength=num_originals)))
    return aps_S


def rate_interval(rates: Sequence[float], value: float) -> Interval | None:
    """Returns a rate with its interval over the segments of a run; None if there are too few.

    Args:
        rates: rate in each segment.
        value: rate over the whole run.
    """
    if len(rates) < _LEAST_SEGMENTS:
        return None
    means_S = _means(rates, np.random.default_rng(_SEED))
    low, high = _ends(means_S * value / np.mean(rates))
    return Interval(value=value, low=low, high=high)


def rate_ratio(first: Sequence[float], second: Sequence[float], value: float) -> Interval | None:
    """Returns the ratio of two rates with its interval; None if a run has too few segments.

    Args:
        first: rate of the first run in each segment.
        second: rate of the second run in each segment.
        value: ratio of the second run's rate to that of the first, each over the whole run.
    """
    if min(len(first), len(second)) < _LEAST_SEGMENTS:
        return None
    generator = np.random.default_rng(_SEED)
    first_S, second_S = _means(first, generator), _means(second, generator)
    usual = np.mean(second) / np.mean(first)
    low, high = _ends(second_S / first_S * value / usual)
    return Interval(value=value, low=low, high=high)


def _interval(
    runs: Sequence[PrecisionRecall],
    figure: Callable[[Floats], Floats],
    resamplings: int,
    seed: int = _SEED,
) -> Interval | None:
    aps = np.array([run.ap() for run in runs])
    if -1.0 in aps:
        return None
    aps_RS = np.array([resampled_aps(run, resamplings, seed) for run in runs])
    # A resampling of few images may have no labelled person.
    figures_S = figure(aps_RS[:, (aps_RS != -1.0).all(axis=0)])
    low, high = _ends(figures_S)
    return Interval(value=float(figure(aps)), low=low, high=high, resamplings=len(figures_S))


def _means(rates: Sequence[float], generator: np.random.Generator) -> Floats:
    """Returns the mean rate of each resampling of the segments."""
    drawn = generator.integers(0, len(rates), (RESAMPLINGS, len(rates)))
    return np.asarray(np.array(rates)[drawn].mean(axis=1), np.float64)


def _ends(figures_S: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(figures_S, (tail, 1 - tail)).tolist()
    return low, high
