"""Renders comparisons of runs as tables for the terminal and as JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import RenderableType
from rich.table import Table

from distributed_pose.metrics.bootstrap import Interval
from distributed_pose.report.comparison import Change, Comparison
from distributed_pose.report.map_differences import MapComparison

_CHANGES_SHOWN = 5
_OUTPUTS_SHOWN = 10

# Columns of the rows of `map_rows`.
MAP_COLUMNS = ("difference", "largest", "of range", "median", "image", "row, column")


def comparison_tables(comparison: Comparison) -> Iterator[RenderableType]:
    """Yields the tables of a comparison for the terminal."""
    yield _figures(comparison)
    if comparison.unavailable:
        yield f"AP is not compared: {comparison.unavailable}"
    different = (*comparison.settings, *comparison.versions)
    if different:
        table = Table("differs", "first", "second")
        for one in different:
            table.add_row(one.name, one.first, one.second)
        yield table
    yield from _changes("keypoint, AP", comparison.keypoints, 3)
    yield from _changes("errors", comparison.errors, 0)
    if comparison.images:
        table = Table("image", "file", "loss first", "loss second")
        for image in comparison.images[:_CHANGES_SHOWN]:
            losses = f"{image.first:.2f}", f"{image.second:.2f}"
            table.add_row(str(image.image_id), image.file_name, *losses)
        yield table
    for maps in comparison.maps:
        yield from _maps(maps)


def comparisons_json(comparisons: Sequence[Comparison]) -> str:
    """Returns comparisons as indented JSON."""
    record = {"comparisons": [asdict(one) for one in comparisons]}
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def figure_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Returns the figures of both runs with their difference or ratio and its 95 % interval."""
    before, after = comparison.images_per_s
    change = _interval(comparison.ap_difference, "{:+.4f}") or "n/a"
    if comparison.is_more_than_chance is not None:
        change += ", more than chance" if comparison.is_more_than_chance else ", within chance"
    ratio = comparison.throughput_ratio
    rate = _interval(comparison.throughput_interval, "{:.3f}")
    return [
        ("AP", _ap(comparison.ap[0]), _ap(comparison.ap[1]), change),
        (
            "images/s, wall clock",
            f"{before:,.2f}",
            f"{after:,.2f}",
            rate or ("n/a" if ratio is None else f"{ratio:.3f}, of unknown spread"),
        ),
    ]


def maps_title(maps: MapComparison) -> str:
    """Returns a sentence that names the images and the devices of the maps compared."""
    equal = "" if any(one.largest for one in maps.outputs) else ", which are equal"
    return f"Maps of {maps.images} images by {maps.first} and by {maps.second}{equal}"


def map_rows(maps: MapComparison) -> list[tuple[str, str, str, str, str, str]]:
    """Returns the outputs that differ, the largest relative difference first."""
    return [
        (
            one.output.replace("_", " "),
            f"{one.largest:.2g}",
            "n/a" if one.relative is None else f"{100 * one.relative:.2g} %",
            f"{one.median:.2g}",
            str(one.image_id),
            f"{one.row}, {one.column}",
        )
        for one in maps.outputs
        if one.largest
    ]


def _maps(maps: MapComparison) -> Iterator[RenderableType]:
    yield maps_title(maps)
    rows = map_rows(maps)
    if rows:
        table = Table(*MAP_COLUMNS)
        for row in rows[:_OUTPUTS_SHOWN]:
            table.add_row(*row)
        yield table
    if hidden := len(rows[_OUTPUTS_SHOWN:]):
        yield f"{hidden} more outputs with smaller relative differences: --json or --html FILE"


def _figures(comparison: Comparison) -> Table:
    table = Table(title=f"{comparison.second} compared with {comparison.first}")
    for name in ("figure", "first", "second", "difference or ratio (95 % interval)"):
        table.add_column(name)
    for row in figure_rows(comparison):
        table.add_row(*row)
    return table


def _interval(interval: Interval | None, form: str) -> str:
    if interval is None:
        return ""
    value, low, high = (form.format(one) for one in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def _ap(value: float | None) -> str:
    return "n/a" if value is None or value == -1 else f"{value:.4f}"


def _changes(title: str, changes: Sequence[Change], digits: int) -> Iterator[Table]:
    changed = [one for one in changes if one.first != one.second][:_CHANGES_SHOWN]
    if changed:
        table = Table(title, "first", "second")
        for one in changed:
            figures = f"{one.first:.{digits}f}", f"{one.second:.{digits}f}"
            table.add_row(one.name.replace("_", " "), *figures)
        yield table
