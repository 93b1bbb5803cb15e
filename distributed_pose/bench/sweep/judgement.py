"""Decides which points of a sweep cannot win, from their figures on the images so far.

A point ends early only where the figures leave no doubt: the confidence is 97.5 % over all
comparisons of a point together, by Bonferroni's correction, with normal intervals.

Array legend: R results, S resamplings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, hypot, sqrt
from statistics import NormalDist

import numpy as np

from distributed_pose.metrics.bootstrap import Interval
from distributed_pose.metrics.matches import Floats

# The probability that chance ends a given point, over all rounds and comparisons.
_RISK = 0.025

# Fewer results or sessions say nothing about the spread of a rate.
_LEAST_RESULTS, _LEAST_SESSIONS = 5, 2

# Least standard deviation of the logarithm of the rate from session to session: few sessions can
# agree by chance.
_LEAST_SPREAD = 0.05

_USUAL_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The figures of a point on the images of the rounds so far.

    Attributes:
        images: number of images.
        ap: AP over these images.
        aps_S: AP of resamplings of the images, the same ones for all points; NaN for one without
            labelled people.
        images_per_s: wall-clock images per second of all sessions.
        session_rates: images per second of each session.
        within_error: standard error of the logarithm of the rate, from the spread within sessions;
            None if unknown.
        spread: standard deviation of the logarithm of the rate from session to session.
        per: images per unit of other quantities, by the name of the measure; they have the relative
            error of the rate.
    """

    images: int
    ap: float
    aps_S: Floats
    images_per_s: float
    session_rates: tuple[float, ...]
    within_error: float | None
    spread: float = _LEAST_SPREAD
    per: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate_error(self) -> float | None:
        """Standard error of the natural logarithm of the rate; None if unknown."""
        if self.within_error is None:
            return None
        return hypot(self.within_error, self.spread / sqrt(len(self.session_rates)))

    @property
    def certain_rate_error(self) -> float | None:
        """The same; None if there are too few sessions to measure how much they differ."""
        return self.rate_error if len(self.session_rates) >= _LEAST_SESSIONS else None

    @property
    def measures(self) -> dict[str, float]:
        """Images per second and per unit of other quantities, by the name of the measure."""
        return {"images_per_s": self.images_per_s, **self.per}

    @property
    def ap_interval(self) -> Interval:
        """AP with its 95 % interval."""
        error = float(np.nanstd(self.aps_S))
        low, high = self.ap - _USUAL_95 * error, self.ap + _USUAL_95 * error
        return Interval(value=self.ap, low=low, high=high, resamplings=len(self.aps_S))

    @property
    def rate_interval(self) -> Interval | None:
        """Images per second with their 95 % interval; None if unknown."""
        if self.rate_error is None:
            return None
        rate, factor = self.images_per_s, exp(_USUAL_95 * self.rate_error)
        return Interval(value=rate, low=rate / factor, high=rate * factor, resamplings=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Decides whether a point can still win.

    Attributes:
        comparisons: number of comparisons of a point in the whole sweep.
        tolerance: AP by which a better point may be less accurate.
        min_ap: least AP; None for none.
        min_images_per_s: least images per second; None for none.
    """

    comparisons: int
    tolerance: float = 0.0
    min_ap: float | None = None
    min_images_per_s: float | None = None

    def reason_to_end(self, point: Figures, others: Iterable[tuple[str, Figures]]) -> str:
        """Returns why a point cannot win, with the figures; empty if it can.

        Args:
            point: figures of the point.
            others: label and figures of each other point.
        """
        if reason := self._below_a_gate(point):
            return reason
        dominating = ((name, other) for name, other in others if self._beats(other, point))
        fastest = max(dominating, key=lambda one: one[1].images_per_s, default=None)
        return f"dominated by {fastest[0]}: {self._lead(fastest[1], point)}" if fastest else ""

    @property
    def _errors(self) -> float:
        """Number of standard errors of a one-sided interval."""
        return NormalDist().inv_cdf(1 - _RISK / max(1, self.comparisons))

    def _below_a_gate(self, point: Figures) -> str:
        most_ap = point.ap + self._errors * float(np.nanstd(point.aps_S))
        if self.min_ap is not None and most_ap < self.min_ap:
            return f"AP {point.ap:.4f}, at most {most_ap:.4f}, is below --min-ap {self.min_ap:g}"
        least = self.min_images_per_s
        error = point.certain_rate_error
        if least is not None and error is not None:
            most = point.images_per_s * exp(self._errors * error)
            if most < least:
                return (
                    f"{point.images_per_s:,.2f} images/s, at most {most:,.2f}, are below "
                    f"--min-images-per-s {least:g}"
                )
        return ""

    def _beats(self, other: Figures, point: Figures) -> bool:
        """Returns whether another point is surely better in all measures, and as accurate."""
        ratios = self._least_ratios(other, point)
        return (
            bool(ratios)
            and min(ratios) > 1
            and self._least_gain(other, point) >= -self._allowed(other)
        )

    def _allowed(self, other: Figures) -> float:
        """Returns the tolerance, which must not lead to a point below the least AP."""
        if self.min_ap is None:
            return self.tolerance
        least_ap = other.ap - self._errors * float(np.nanstd(other.aps_S))
        return self.tolerance if least_ap >= self.min_ap else 0.0

    def _least_gain(self, other: Figures, point: Figures) -> float:
        """Returns the lower end of AP of another point less that of a point."""
        error = float(np.nanstd(other.aps_S - point.aps_S))
        return other.ap - point.ap - self._errors * error

    def _least_ratios(self, other: Figures, point: Figures) -> list[float]:
        """Returns the lower ends of the ratios of the measures; empty if they are not known."""
        errors = other.certain_rate_error, point.certain_rate_error
        if errors[0] is None or errors[1] is None:
            return []
        margin = exp(self._errors * hypot(errors[0], errors[1]))
        theirs = other.measures
        # A measure that is unknown of the other point is not better.
        return [theirs.get(name, 0.0) / own / margin for name, own in point.measures.items()]

    def _lead(self, other: Figures, point: Figures) -> str:
        ratio, gain = other.images_per_s / point.images_per_s, other.ap - point.ap
        least_ratio, least_gain = (
            self._least_ratios(other, point)[0],
            self._least_gain(other, point),
        )
        return (
            f"{ratio:.2f} times as fast (at least {least_ratio:.2f}), AP {gain:+.4f} (at least "
            f"{least_gain:+.4f})"
        )


def within_error(results: Iterable[tuple[int, float]]) -> float | None:
    """Returns the standard error of the logarithm of a rate; None if there are too few results.

    Args:
        results: number of images of each result, and seconds since the one before it.

    Source: Cochran, Sampling Techniques (1977), 6.3: the error of a ratio of two means.
    """
    images_R, seconds_R = np.array(list(results), np.float64).reshape(-1, 2).T
    if len(images_R) < _LEAST_RESULTS or not seconds_R.sum():
        return None
    residuals_R = images_R / images_R.mean() - seconds_R / seconds_R.mean()
    return float(np.std(residuals_R, ddof=1) / np.sqrt(len(residuals_R)))


def with_common_spread(figures: Sequence[Figures]) -> list[Figures]:
    """Returns figures with the spread from session to session that all points together show.

    A machine that is busy at times slows some sessions, and which ones is chance.

    Args:
        figures: figures of all points.
    """
    logs = [np.log(one.session_rates) for one in figures if min(one.session_rates) > 0]
    freedom = sum(len(rates) - 1 for rates in logs)
    squares = sum(float(((rates - rates.mean()) ** 2).sum()) for rates in logs)
    spread = max(_LEAST_SPREAD, sqrt(squares / freedom)) if freedom else _LEAST_SPREAD
    return [replace(one, spread=spread) for one in figures]
