"""Checks the figures of a scaling experiment, at its largest number of devices, against gates."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distributed_pose.bench.scale import ScalePoint, ScaleReport
from distributed_pose.errors import GateError, SetupError
from distributed_pose.files.json_records import read_record
from distributed_pose.files.local import MAX_CARD_BYTES, one_line, read_regular
from distributed_pose.metrics.rank_tests import SIGNIFICANCE, rank_test, sign_test
from distributed_pose.report.gates import Gates

SCALING = "scaling.json"


def read_baseline(folder: Path, devices: int, scaling: str) -> ScalePoint:
    """Returns the figures of an earlier experiment with one number of devices.

    Args:
        folder: output folder of the experiment.
        devices: number of devices.
        scaling: `strong` or `weak`.

    Raises:
        SetupError: if the folder has no such figures.
    """
    path = folder / SCALING
    try:
        report = read_record(ScaleReport, read_regular(path, MAX_CARD_BYTES))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot read the baseline {path}: {one_line(error)}", "give an output folder of scale"
        ) from None
    points = {point.devices: point for point in report.points}
    if devices not in points or report.scaling != scaling:
        raise SetupError(
            f"the baseline {path} has {report.scaling} scaling with {', '.join(map(str, points))} "
            f"devices, and not {scaling} scaling with {devices}",
            "measure the baseline with the same --devices and --weak",
        )
    return points[devices]


def check_scaling(gates: Gates, point: ScalePoint, baseline: ScalePoint | None = None) -> None:
    """Checks the figures of the largest number of devices against gates.

    Args:
        gates: the least values.
        point: figures of the largest number of devices.
        baseline: figures of an earlier experiment for as many devices; None for none.

    Raises:
        GateError: if a figure falls short; names it, by how much, and whether that is more than
            chance.
        SetupError: if the baseline is over another number of images.
    """
    shortfalls = [*_least(gates, point)]
    if baseline:
        if baseline.images != point.images:
            raise SetupError(
                f"the baseline has runs of {baseline.images} images, and this one of "
                f"{point.images}",
                "measure the baseline with the same data",
            )
        shortfalls += _relative(gates, point, baseline)
    if shortfalls:
        raise GateError(f"{point.devices} devices: {'; '.join(shortfalls)}")


def rate_shortfall(rate: float, least: float, runs: Sequence[float]) -> str:
    """Returns how far a median throughput of several runs is below the least; empty if it is not.

    Args:
        rate: median throughput in images per second.
        least: least throughput.
        runs: throughput of each run.
    """
    if rate >= least:
        return ""
    below = sum(one < least for one in runs)
    chance = _chance(sign_test(runs, least), 0.5 ** len(runs))
    return (
        f"{rate:,.2f} images/s are {least - rate:,.2f} below --min-images-per-s {least:,g}, "
        f"in {below} of {len(runs)} runs, {chance}"
    )


def _least(gates: Gates, point: ScalePoint) -> Iterator[str]:
    ap = _ap(point)
    if gates.min_ap is not None:
        if ap is None:
            yield "the runs have no AP for --min-ap"
        elif ap < gates.min_ap:
            short = gates.min_ap - ap
            yield f"AP {ap:.4f} is {short:.4f} below --min-ap {gates.min_ap:g}, {_AP_CHANCE}"
    least, rate = gates.min_images_per_s, point.wall_images_per_s
    if least is not None and (text := rate_shortfall(rate, least, point.runs_images_per_s)):
        yield text


# The same images have the same AP in every run, so the runs show no spread of AP.
_AP_CHANCE = "of unknown chance (`evaluate` has gates with an interval over the images)"


def _relative(gates: Gates, point: ScalePoint, baseline: ScalePoint) -> Iterator[str]:
    before, after = _ap(baseline), _ap(point)
    if gates.tolerance is not None and before is not None:
        if after is None:
            yield f"the runs have no AP, and the baseline has {before:.4f}"
        elif after < before - gates.tolerance:
            yield (
                f"AP {after:.4f} is {before - after:.4f} below the {before:.4f} of the baseline, "
                f"over the tolerance of {gates.tolerance:g}, {_AP_CHANCE}"
            )
    if gates.rate_tolerance is not None:
        share = 1 - gates.rate_tolerance
        rate, usual = point.wall_images_per_s, baseline.wall_images_per_s
        if rate < share * usual:
            least = [share * one for one in baseline.runs_images_per_s]
            runs = point.runs_images_per_s
            chance = _chance(rank_test(runs, least), rank_test([0.0] * len(runs), least))
            yield (
                f"{rate:,.2f} images/s are {1 - rate / usual:.1%} below the {usual:,.2f} of the "
                f"baseline, over the tolerance of {gates.rate_tolerance:.1%}, {chance}"
            )


def _chance(probability: float, smallest: float) -> str:
    """Returns whether a shortfall is more than chance.

    Args:
        probability: probability of the shortfall by chance.
        smallest: smallest probability that this number of runs can show.
    """
    if smallest > SIGNIFICANCE:
        return "of unknown chance (too few runs, see --repeat)"
    name = "more than chance" if probability <= SIGNIFICANCE else "within chance"
    return f"{name} (p = {probability:.2g})"


def _ap(point: ScalePoint) -> float | None:
    ap = point.ap.get("AP")
    return None if ap == -1 else ap
