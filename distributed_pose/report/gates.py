"""Checks the figures of a run against gates: least values, and a baseline with tolerances."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from distributed_pose.errors import GateError, SetupError
from distributed_pose.metrics.bootstrap import Interval, ap_interval, rate_interval
from distributed_pose.report.comparison import Comparison, compare
from distributed_pose.report.stored_run import StoredRun


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The least values that a run must reach.

    Attributes:
        min_ap: least AP; None for no gate.
        min_images_per_s: least wall-clock throughput in images per second; None for no gate.
        tolerance: AP by which a run may be below its baseline; None for no gate.
        rate_tolerance: share of the baseline's throughput by which a run may be below it; None for
            no gate.
    """

    min_ap: float | None = None
    min_images_per_s: float | None = None
    tolerance: float | None = None
    rate_tolerance: float | None = None


def check_gates(
    gates: Gates,
    run: StoredRun,
    rates: Callable[[StoredRun], Sequence[float]],
    baseline: StoredRun | None = None,
) -> None:
    """Checks the figures of a run against gates.

    Args:
        gates: the least values.
        run: run to check.
        rates: returns the throughput of a run in segments of its time; called where it is needed.
        baseline: run that the tolerances are relative to; None for none.

    Raises:
        GateError: if a figure falls short; names it, by how much, and whether that is more than
            chance.
    """
    shortfalls = [*_least(gates, run, rates)]
    if baseline is not None and (gates.tolerance, gates.rate_tolerance) != (None, None):
        shortfalls += _relative(gates, run, rates, baseline)
    if shortfalls:
        raise GateError(f"{run.location}: {'; '.join(shortfalls)}")


def _least(
    gates: Gates, run: StoredRun, rates: Callable[[StoredRun], Sequence[float]]
) -> Iterator[str]:
    if gates.min_ap is not None:
        ap = _ap(run)
        if ap is None:
            yield f"the run has no AP for --min-ap: {run.report.unscored or 'no labelled people'}"
        elif ap < gates.min_ap:
            chance = _chance(_ap_interval(run), gates.min_ap, 4)
            short = gates.min_ap - ap
            yield f"AP {ap:.4f} is {short:.4f} below --min-ap {gates.min_ap:g}, {chance}"
    rate, least = run.report.throughput.wall_images_per_s, gates.min_images_per_s
    if least is not None and rate < least:
        chance = _chance(rate_interval(rates(run), rate), least, 2)
        short = least - rate
        yield f"{rate:,.2f} images/s are {short:,.2f} below --min-images-per-s {least:,g}, {chance}"


def _relative(
    gates: Gates,
    run: StoredRun,
    rates: Callable[[StoredRun], Sequence[float]],
    baseline: StoredRun,
) -> Iterator[str]:
    compared = compare(baseline, run, (rates(baseline), rates(run)))
    if gates.tolerance is not None:
        yield from _ap_behind(compared, gates.tolerance)
    if gates.rate_tolerance is not None:
        yield from _rate_behind(compared, gates.rate_tolerance)


def _ap_behind(compared: Comparison, tolerance: float) -> Iterator[str]:
    before, after = compared.ap
    if before is None:
        return
    if after is None:
        yield f"the run has no AP, and its baseline {compared.first} has {before:.4f}"
    elif after < before - tolerance:
        chance = _chance(compared.ap_difference, -tolerance, 4)
        yield (
            f"AP {after:.4f} is {before - after:.4f} below the {before:.4f} of its baseline "
            f"{compared.first}, over the tolerance of {tolerance:g}, {chance}"
        )


def _rate_behind(compared: Comparison, tolerance: float) -> Iterator[str]:
    before, after = compared.images_per_s
    ratio = compared.throughput_ratio
    if ratio is not None and ratio < 1 - tolerance:
        chance = _chance(compared.throughput_interval, 1 - tolerance, 3)
        yield (
            f"{after:,.2f} images/s are {1 - ratio:.1%} below the {before:,.2f} of its baseline "
            f"{compared.first}, over the tolerance of {tolerance:.1%}, {chance}"
        )


def _ap_interval(run: StoredRun) -> Interval | None:
    try:
        return ap_interval(run.precision_recall)
    except SetupError:
        return None


def _ap(run: StoredRun) -> float | None:
    ap = run.report.ap["AP"] if run.report.ap else None
    return None if ap == -1 else ap


def _chance(interval: Interval | None, least: float, digits: int) -> str:
    """Returns whether a figure is below the least value by more than chance."""
    if interval is None:
        return "of unknown chance"
    chance = "more than chance" if interval.high < least else "within chance"
    return f"{chance} (95 % interval {interval.low:.{digits}f} to {interval.high:.{digits}f})"
