"""The `compare` command: stored runs against the first of them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.cli import gates
from distributed_pose.cli.options import AsJson
from distributed_pose.cli.pages import check_page
from distributed_pose.cli.progress import progress
from distributed_pose.cli.terminal import Terminal, print_line, print_text
from distributed_pose.errors import ConfigError
from distributed_pose.files.local import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distributed_pose.report.comparison import Comparison
    from distributed_pose.report.stored_run import StoredRun

# The maps of an image take 0.8 MB of memory, and those of two runs are held at once.
_MAX_IMAGES = 200


def compare(  # noqa: PLR0913 - one argument per option
    *,
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Output folders of two or more runs, paths or URIs."),
    ],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the comparison as a page as well."),
    ] = None,
    maps: Annotated[
        int | None,
        typer.Option(
            "--maps",
            metavar="N",
            min=1,
            max=_MAX_IMAGES,
            help="Compute the maps of N images again, with each run's model, backend and "
            "precision, and compare them output by output.",
        ),
    ] = None,
    min_ap: gates.MinAp = None,
    min_images_per_s: gates.MinRate = None,
    tolerance: gates.Tolerance = None,
    rate_tolerance: gates.RateTolerance = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs with the first: AP with its interval, throughput, and what else differs.

    Gates are for all runs but the first, which is the baseline of the tolerances.
    """
    if len(runs) < 2:
        raise ConfigError("there is one run to compare", "name two or more")
    if html:
        check_page(html, runs)
    from distributed_pose.report.gates import Gates, check_gates
    from distributed_pose.report.stored_run import read_run

    first, *others = stored = [read_run(run) for run in runs]
    _show(stored, html, maps, as_json=as_json)
    least = Gates(
        min_ap=min_ap,
        min_images_per_s=min_images_per_s,
        tolerance=tolerance,
        rate_tolerance=rate_tolerance,
    )
    for other in others:
        check_gates(least, other, gates.segments, first)


def _show(
    runs: "Sequence[StoredRun]", html: Path | None, maps: int | None, *, as_json: bool
) -> None:
    """Prints the comparisons of runs with the first one, and writes them as a page if wanted.

    Args:
        runs: the first run, then the others.
        html: page to write; None for none.
        maps: number of images whose maps are compared; None for none.
        as_json: whether to print JSON instead of tables.
    """
    from distributed_pose.report.comparison import compare as compared
    from distributed_pose.report.comparison_text import comparison_tables, comparisons_json

    first, *others = runs
    rates = gates.segments(first)
    comparisons = [compared(first, other, (rates, gates.segments(other))) for other in others]
    if maps:
        comparisons = _with_maps(runs, comparisons, maps)
    if html:
        from distributed_pose.report.comparison_page import comparison_page

        write_atomically(html, comparison_page(runs, comparisons))
    if as_json:
        print_text(comparisons_json(comparisons))
        return
    for comparison in comparisons:
        Terminal().print(*comparison_tables(comparison), sep="\n")
    if html:
        print_line(f"Written to {html}")


def _with_maps(
    runs: "Sequence[StoredRun]", comparisons: "Sequence[Comparison]", count: int
) -> "list[Comparison]":
    """Returns comparisons with the differences of the maps of `count` images."""
    from distributed_pose.bench.maps import compare_maps

    with progress() as on_progress:
        found = compare_maps(runs, count, on_progress)
    return [replace(one, maps=(*maps,)) for one, maps in zip(comparisons, found, strict=True)]
