"""Sums a sweep up: records of the points, Pareto fronts, and the best points within the gates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distributed_pose.bench.sweep.pareto import front
from distributed_pose.bench.sweep.plan import SweepPlan
from distributed_pose.bench.sweep.record import MEASURES, PointRecord, SweepRecord
from distributed_pose.errors import GateError


def summed_up(
    plan: SweepPlan,
    identity: Mapping[str, str],
    rounds: Sequence[int],
    points: Sequence[PointRecord],
    *,
    complete: bool,
) -> SweepRecord:
    """Returns the record of a sweep.

    Args:
        plan: the sweep.
        identity: digests and settings that all points share, by name.
        rounds: number of images after each round; the last one is that of the dataset.
        points: records of the points.
        complete: whether the sweep has come to its end.
    """
    fronts = _fronts(points)
    skipped = {point.name: rounds[-1] - point.evaluated for point in points if _ended(point)}
    return SweepRecord(
        identity=identity,
        num_images=rounds[-1],
        rounds=tuple(rounds),
        tolerance=plan.tolerance,
        min_ap=plan.min_ap,
        min_images_per_s=plan.min_images_per_s,
        watts=plan.watts,
        prices=plan.prices,
        points=tuple(
            replace(point, fronts=tuple(name for name in fronts if point.name in fronts[name]))
            for point in points
        ),
        fronts=fronts,
        best=_best(plan, points),
        saved_images=sum(skipped.values()),
        saved_s=sum(
            skipped[point.name] / point.images_per_s
            for point in points
            if _ended(point) and point.images_per_s
        ),
        complete=complete,
    )


def check_gates(record: SweepRecord) -> None:
    """Checks that a point reaches the least values, if there are any.

    Raises:
        GateError: if none does; names the points that come nearest.
    """
    gates = [
        f"{option} {least:g}"
        for option, least in (
            ("--min-ap", record.min_ap),
            ("--min-images-per-s", record.min_images_per_s),
        )
        if least is not None
    ]
    if not gates or record.best:
        return
    raise GateError(f"no point reaches {' and '.join(gates)}: {'; '.join(_nearest(record))}")


def _ended(point: PointRecord) -> bool:
    return point.outcome == "ended"


def _scored(points: Sequence[PointRecord]) -> list[tuple[PointRecord, float, float]]:
    """Returns the points that have figures over all images, with AP and rate."""
    return [
        (point, point.ap, point.images_per_s)
        for point in points
        if point.outcome == "finished" and point.ap is not None and point.images_per_s
    ]


def _fronts(points: Sequence[PointRecord]) -> dict[str, tuple[str, ...]]:
    fronts = {}
    for measure in MEASURES:
        figures = {
            point.name: (value, ap)
            for point, ap, _ in _scored(points)
            if (value := getattr(point, measure))
        }
        if figures:
            fronts[measure] = front(figures)
    return fronts


def _best(plan: SweepPlan, points: Sequence[PointRecord]) -> dict[str, str]:
    """Returns the best point by each measure that reaches the least values.

    With a least AP it is the point with most of the measure, and otherwise the most accurate one.
    """
    if plan.min_ap is None and plan.min_images_per_s is None:
        return {}
    reaching = [
        (point, ap)
        for point, ap, rate in _scored(points)
        if ap >= (plan.min_ap or 0.0) and rate >= (plan.min_images_per_s or 0.0)
    ]
    best = {}
    for measure in MEASURES:
        known = [(value, ap, point) for point, ap in reaching if (value := getattr(point, measure))]
        if known:
            by_ap = plan.min_ap is None
            chosen = max(known, key=lambda one: one[1::-1] if by_ap else one[:2])
            best[measure] = chosen[2].name
    return best


def _nearest(record: SweepRecord) -> list[str]:
    """Returns the largest figures of all points, of those that ended early too."""
    accurate = max(record.points, key=lambda one: one.ap or 0.0)
    fast = max(record.points, key=lambda one: one.images_per_s or 0.0)
    found = []
    if record.min_ap is not None and accurate.ap is not None:
        found.append(
            f"the most accurate is {accurate.label} with AP {accurate.ap:.4f} over "
            f"{accurate.images} images"
        )
    if record.min_images_per_s is not None and fast.images_per_s is not None:
        found.append(f"the fastest is {fast.label} with {fast.images_per_s:,.2f} images/s")
    return found or ["no point has figures"]
