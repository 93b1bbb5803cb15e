"""The options of gates, which several commands share, and their checks."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.errors import ConfigError
from distributed_pose.locations import Location

if TYPE_CHECKING:
    from distributed_pose.report.gates import Gates
    from distributed_pose.report.stored_run import StoredRun


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


MinAp = Annotated[
    float | None,
    typer.Option(
        "--min-ap",
        min=0,
        max=1,
        callback=_finite,
        help="Least AP; if it is not reached, the exit code is 5.",
    ),
]
MinRate = Annotated[
    float | None,
    typer.Option(
        "--min-images-per-s",
        min=0,
        callback=_finite,
        help="Least wall-clock throughput in images/s; if it is not reached, the exit code is 5.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="RUN",
        help="Output folder of the run that AP and throughput may not fall behind; if they do, the "
        "exit code is 5.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        min=0,
        max=1,
        callback=_finite,
        help="AP by which a run may be below its baseline; 0 if only the baseline is given.",
    ),
]
RateTolerance = Annotated[
    float | None,
    typer.Option(
        "--rate-tolerance",
        min=0,
        max=1,
        callback=_finite,
        help="Share by which a run's throughput may be below that of its baseline; 0.1 if only the "
        "baseline is given.",
    ),
]


def checks(
    min_ap: float | None,
    min_images_per_s: float | None,
    baseline: str | None,
    tolerance: float | None,
    rate_tolerance: float | None,
) -> Callable[[Location], None]:
    """Returns a check of a run's output folder, which raises `GateError` if a figure falls short.

    The arguments are the values of the options.

    Raises:
        ConfigError: if there is a tolerance without a baseline.
        SetupError: if the baseline cannot be read.
    """
    gates = least(min_ap, min_images_per_s, baseline, tolerance, rate_tolerance)
    if gates is None:
        return lambda _: None
    from distributed_pose.report.gates import check_gates
    from distributed_pose.report.stored_run import read_run

    earlier = read_run(baseline) if baseline else None
    return lambda folder: check_gates(gates, read_run(folder), segments, earlier)


def least(
    min_ap: float | None,
    min_images_per_s: float | None,
    baseline: object,
    tolerance: float | None,
    rate_tolerance: float | None,
) -> "Gates | None":
    """Returns the gates that the values of the options set; None if there are none.

    Raises:
        ConfigError: if there is a tolerance without a baseline.
    """
    if baseline is None and (tolerance, rate_tolerance) != (None, None):
        raise ConfigError("a tolerance is relative to a baseline", "give --baseline")
    if (min_ap, min_images_per_s, baseline) == (None, None, None):
        return None
    from distributed_pose.report.gates import Gates

    return Gates(
        min_ap=min_ap,
        min_images_per_s=min_images_per_s,
        tolerance=tolerance or 0.0,
        rate_tolerance=0.1 if rate_tolerance is None else rate_tolerance,
    )


def segments(run: "StoredRun") -> list[float]:
    """Returns the throughput of a run in segments of its time; empty if it has no ledger."""
    from distributed_pose.report.timeline import segment_rates
    from distributed_pose.run.timeline import read_timeline

    return segment_rates(read_timeline(run.location))
