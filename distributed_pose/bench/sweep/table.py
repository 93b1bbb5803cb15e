"""Renders a sweep as a table and lines for the terminal."""

from collections.abc import Callable, Iterator, Mapping

from rich import box
from rich.console import RenderableType
from rich.table import Table

from distributed_pose.bench.sweep.record import MEASURES, PointRecord, SweepRecord

# Settings that the table shows if points differ in them.
_FURTHER: Mapping[str, Callable[[PointRecord], str]] = {
    "batch": lambda point: point.settings["batch_size"],
    "devices": lambda point: point.settings["devices"],
    "backend": lambda point: point.backend or point.settings["backend"],
}

_COLUMNS = {"images_per_joule": "images/J", "images_per_cost": "images/price"}


def sweep_tables(record: SweepRecord) -> Iterator[RenderableType]:
    """Yields a table of the points, and lines on those that are not finished and on the best."""
    yield _points(record)
    for point in record.points:
        if point.reason:
            yield f"{point.label}: {point.outcome}, {point.reason}"
    if record.saved_images:
        total = record.num_images * sum(
            one.outcome in {"finished", "ended"} for one in record.points
        )
        yield (
            f"Points that ended early left out {record.saved_images:,} of {total:,} images, an "
            f"estimated {record.saved_s:,.0f} s."
        )
    by_name = {point.name: point for point in record.points}
    for measure, name in record.best.items():
        yield f"Best by {MEASURES[measure]}: {_figures(by_name[name])}, in {name}"


def _points(record: SweepRecord) -> Table:
    table = Table(title=f"Sweep, {record.num_images} images", box=box.SIMPLE_HEAD)
    for name in ("input", "precision"):
        table.add_column(name)
    further = {name: get for name, get in _FURTHER.items() if len(set(map(get, record.points))) > 1}
    for name in further:
        table.add_column(name)
    measures = [measure for measure in _COLUMNS if measure in record.fronts]
    for name in ("images", "AP", "images/s", *(_COLUMNS[measure] for measure in measures)):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    for point in record.points:
        table.add_row(
            point.input or point.settings["input"],
            point.precision or point.settings["precision"],
            *(get(point) for get in further.values()),
            str(point.images),
            _ap(point),
            _rate(point),
            *(_plain(getattr(point, measure)) for measure in measures),
            _outcome(point),
        )
    common = [
        f"{name} {get(record.points[0])}" for name, get in _FURTHER.items() if name not in further
    ]
    table.caption = " · ".join([*common, "± 95 % interval"])
    return table


def _outcome(point: PointRecord) -> str:
    if not point.fronts:
        return point.outcome
    return f"front: {', '.join(_COLUMNS.get(name, MEASURES[name]) for name in point.fronts)}"


def _figures(point: PointRecord) -> str:
    return f"{point.label} with AP {point.ap:.4f} and {point.images_per_s:,.2f} images/s"


def _ap(point: PointRecord) -> str:
    if point.ap is None:
        return "n/a"
    interval = point.ap_interval
    return f"{point.ap:.4f}" + (f" ±{interval.high - interval.value:.3f}" if interval else "")


def _rate(point: PointRecord) -> str:
    if point.images_per_s is None:
        return "n/a"
    interval = point.rate_interval
    return f"{point.images_per_s:,.2f}" + (
        f" ±{interval.high / interval.value - 1:.0%}" if interval else ""
    )


def _plain(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.3g}"
