"""Writes the page of comparisons of runs: one HTML file that needs no network."""

from collections.abc import Sequence
from typing import Any

from distributed_pose.report.comparison import Comparison
from distributed_pose.report.comparison_text import MAP_COLUMNS, figure_rows, map_rows, maps_title
from distributed_pose.report.page import figure, render
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.report.thumbnails import thumbnails


def comparison_page(runs: Sequence[StoredRun], comparisons: Sequence[Comparison]) -> str:
    """Returns the page of comparisons as HTML.

    Args:
        runs: the first run, then the others.
        comparisons: each of the others compared with the first.
    """
    first, *others = runs
    return render(
        "compare.html",
        title=f"{len(runs)} runs compared",
        map_columns=MAP_COLUMNS,
        comparisons=[
            _values(comparison, [first, other])
            for comparison, other in zip(comparisons, others, strict=True)
        ],
    )


def _values(comparison: Comparison, runs: Sequence[StoredRun]) -> dict[str, Any]:
    different = (*comparison.settings, *comparison.versions)
    return {
        "record": comparison,
        "figures": figure_rows(comparison),
        "different": [(one.name, one.first, one.second) for one in different],
        "keypoints": [
            (
                one.name.replace("_", " "),
                figure(one.first),
                figure(one.second),
                f"{one.second - one.first:+.3f}",
            )
            for one in comparison.keypoints
        ],
        "errors": [
            (
                one.name.replace("_", " "),
                f"{one.first:.0f}",
                f"{one.second:.0f}",
                f"{one.second - one.first:+.0f}",
            )
            for one in comparison.errors
        ],
        "images": thumbnails(runs, comparison.images) if comparison.images else [],
        "maps": [(maps_title(maps), map_rows(maps)) for maps in comparison.maps],
    }
