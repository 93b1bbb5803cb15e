"""Throughput and stage times of a run.

Wall-clock and compute-only throughput are two named figures: the first is what a user waits for,
the second what a device's data sheet speaks of.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distributed_pose.records import STAGES, Durations

_NS = 1e9

# Medians of the same batch size differ by up to 2 % from run to run.
_AS_GOOD = 0.98


@dataclass(frozen=True)
class StageFigures:
    """Durations of one stage, in nanoseconds.

    A duration is that of one image; in `copy_in`, `compute`, `copy_out`, `check` and `transfer`
    that of one batch, and in `score` that of the run.

    Attributes:
        count: number of durations.
        total_ns: sum.
        p50_ns: median.
        p90_ns: 90th percentile.
        p99_ns: 99th percentile.
        min_ns: shortest.
        max_ns: longest.
    """

    count: int
    total_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    min_ns: int
    max_ns: int


@dataclass(frozen=True)
class LatencyFigures:
    """Times of batches of one size, and the throughput that follows from them.

    Attributes:
        batch_size: number of images per batch.
        count: number of timed batches.
        min_ms: shortest execution in milliseconds, without copies; the next five are execution
            times as well.
        mean_ms: mean execution.
        median_ms: median execution.
        p90_ms: 90th percentile of the executions.
        p99_ms: 99th percentile of the executions.
        max_ms: longest execution.
        images_per_s: compute-only throughput, from the mean execution.
        latency_median_ms: median of execution and copies each way, which is `trtexec`'s latency.
        latency_p99_ms: 99th percentile of the same.
        throughput_images_per_s: throughput by wall clock while the device copies one batch and
            executes another, if it can.
    """

    batch_size: int
    count: int
    min_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    images_per_s: float
    latency_median_ms: float
    latency_p99_ms: float
    throughput_images_per_s: float


def latency_figures(
    batch_size: int, compute_ns: Sequence[int], latencies_ns: Sequence[int], wall_ns: int
) -> LatencyFigures:
    """Returns the figures of at least one batch.

    Args:
        batch_size: images in each.
        compute_ns: execution of each.
        latencies_ns: of each, copies included.
        wall_ns: of all of them.
    """
    compute_ms = np.array(compute_ns) / 1e6
    least, median, p90, p99, most = np.percentile(compute_ms, (0, 50, 90, 99, 100)).tolist()
    latency_median, latency_p99 = np.percentile(np.array(latencies_ns) / 1e6, (50, 99)).tolist()
    return LatencyFigures(
        batch_size=batch_size,
        count=len(compute_ns),
        min_ms=least,
        mean_ms=float(compute_ms.mean()),
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=most,
        images_per_s=images_per_s(batch_size * len(compute_ns), sum(compute_ns)),
        latency_median_ms=latency_median,
        latency_p99_ms=latency_p99,
        throughput_images_per_s=images_per_s(batch_size * len(compute_ns), wall_ns),
    )


def best_batch_size(durations_ns: Mapping[int, Sequence[int]]) -> int:
    """Returns the batch size with the most images per second, by the median batch.

    Among sizes whose rates differ by less than timings scatter, it is the smallest, which fills
    fastest and takes the least memory.

    Args:
        durations_ns: durations of batches by batch size.
    """
    rates = {size: size / float(np.median(times)) for size, times in durations_ns.items()}
    return min(size for size, rate in rates.items() if rate >= _AS_GOOD * max(rates.values()))


def merge(parts: Iterable[Durations]) -> dict[str, list[int]]:
    """Returns all raw durations by stage."""
    merged: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for part in parts:
        for stage, durations_ns in part.items():
            merged[stage].extend(durations_ns)
    return merged


def stage_figures(durations: Mapping[str, list[int]]) -> dict[str, StageFigures]:
    """Returns count, total and percentiles of each stage."""
    return {stage: _figures(durations_ns) for stage, durations_ns in durations.items()}


def images_per_s(images: int, duration_ns: int) -> float:
    """Returns images per second, or 0 if nothing was timed."""
    return images * _NS / duration_ns if duration_ns else 0.0


def _figures(durations_ns: list[int]) -> StageFigures:
    if not durations_ns:
        return StageFigures(0, 0, 0, 0, 0, 0, 0)
    percentiles = np.percentile(durations_ns, (50, 90, 99)).tolist()
    p50, p90, p99 = map(round, percentiles)
    count, total_ns = len(durations_ns), sum(durations_ns)
    return StageFigures(count, total_ns, p50, p90, p99, min(durations_ns), max(durations_ns))
