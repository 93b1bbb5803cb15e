"""Draws the points of a sweep with their Pareto fronts, without a display."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from distributed_pose.bench.plots import rendered
from distributed_pose.bench.sweep.record import MEASURES, PointRecord, SweepRecord

# Colour-blind readers can distinguish these colours, after Okabe and Ito, and markers.
_STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"))
_FRONT, _OTHER, _GATE = "#333333", "#888888", "#999999"

_WIDTH_INCHES, _HEIGHT_INCHES = 7.0, 4.8


def sweep_plots(record: SweepRecord) -> Mapping[str, bytes]:
    """Returns the content of files with a plot of AP by each measure, by suffix, `png` and `svg`.

    Args:
        record: a sweep.
    """
    measures = [name for name in MEASURES if name in record.fronts] or ["images_per_s"]
    size = (_WIDTH_INCHES * len(measures), _HEIGHT_INCHES)
    # pyplot is not used, because it keeps figures in memory and looks for a display.
    figure = Figure(figsize=size, layout="constrained")
    for axes, measure in zip(
        figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True
    ):
        _draw(axes, record, measure)
    figure.suptitle(f"AP over {record.num_images} images, with the Pareto front")
    return {suffix: rendered(figure, suffix) for suffix in ("png", "svg")}


def _draw(axes: Axes, record: SweepRecord, measure: str) -> None:
    _draw_finished(axes, record, measure)
    ended = [one for one in record.points if one.outcome == "ended" and _place(one, measure)]
    if ended:
        label = "ended early, on fewer images"
        axes.plot(*_places(ended, measure), "x", color=_OTHER, label=label)
    _draw_front(axes, record, measure)
    _draw_gates(axes, record, measure)
    for point in record.points:
        if place := _place(point, measure):
            colour = _FRONT if measure in point.fronts else _OTHER
            axes.annotate(
                point.label, place, (5, 5), textcoords="offset points", fontsize=7, color=colour
            )
    axes.set_xscale("log")
    # Room for the labels, which are to the right of their points.
    axes.margins(x=0.2)
    axes.set(xlabel=f"{MEASURES[measure]}, wall clock", ylabel="AP", ylim=(0, None))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", fontsize=8)


def _draw_finished(axes: Axes, record: SweepRecord, measure: str) -> None:
    """Draws the finished points, with a colour and a marker for each precision."""
    by_precision: dict[str, list[PointRecord]] = {}
    for point in record.points:
        if point.outcome == "finished" and _place(point, measure):
            by_precision.setdefault(point.precision, []).append(point)
    for (precision, points), (colour, marker) in zip(
        by_precision.items(), cycle(_STYLES), strict=False
    ):
        _draw_errors(axes, points, measure, colour)
        axes.plot(*_places(points, measure), marker, color=colour, label=precision)


def _draw_front(axes: Axes, record: SweepRecord, measure: str) -> None:
    """Draws the front as a staircase: the largest AP that is reached at each rate."""
    by_name = {point.name: point for point in record.points}
    if front := [by_name[name] for name in record.fronts.get(measure, ())]:
        places = _places(front, measure)
        axes.plot(*places, color=_FRONT, drawstyle="steps-pre", label="front", zorder=1)


def _draw_errors(axes: Axes, points: Sequence[PointRecord], measure: str, colour: str) -> None:
    for point in points:
        place, ap, rate = _place(point, measure), point.ap_interval, point.rate_interval
        if place and ap:
            axes.plot([place[0]] * 2, [ap.low, ap.high], color=colour, alpha=0.5, linewidth=1)
        if place and rate:
            # Energy and price have the relative error of the rate.
            ends = [place[0] * end / rate.value for end in (rate.low, rate.high)]
            axes.plot(ends, [place[1]] * 2, color=colour, alpha=0.5, linewidth=1)


def _draw_gates(axes: Axes, record: SweepRecord, measure: str) -> None:
    if record.min_ap is not None:
        axes.axhline(record.min_ap, color=_GATE, linestyle="--", label="--min-ap")
    if record.min_images_per_s and measure == "images_per_s":
        axes.axvline(
            record.min_images_per_s, color=_GATE, linestyle=":", label="--min-images-per-s"
        )


def _places(points: Sequence[PointRecord], measure: str) -> tuple[list[float], list[float]]:
    places = [place for point in points if (place := _place(point, measure))]
    return [value for value, _ in places], [ap for _, ap in places]


def _place(point: PointRecord, measure: str) -> tuple[float, float] | None:
    """Returns the measure and AP of a point; None if one of them is unknown."""
    value: float | None = getattr(point, measure)
    return (value, point.ap) if value and point.ap is not None else None
