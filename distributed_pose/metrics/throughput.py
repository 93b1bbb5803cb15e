"""Throughput and stage times of a run.

Wall-clock and compute-only throughput are two named figures. The first determines how long a user
waits, and the second compares with the data sheet of a device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_NS = 1e9

# The medians of a batch size differ by up to 2 % from run to run.
_AS_GOOD = 0.98


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFigures:
    """Durations of one stage, in nanoseconds.

    The stages `copy_in`, `compute`, `copy_out` and `check` have one duration per batch, `transfer`
    has one per shard, `score` has one per run, and all other stages have one per image.

    Attributes:
        count: number of durations.
        total_ns: sum of the durations in nanoseconds.
        p50_ns: median duration in nanoseconds.
        p90_ns: 90th percentile of the durations in nanoseconds.
        p99_ns: 99th percentile of the durations in nanoseconds.
        min_ns: shortest duration in nanoseconds.
        max_ns: longest duration in nanoseconds.
    """

    count: int
    total_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    min_ns: int
    max_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyFigures:
    """Times of batches of one size, and the throughput that follows from them.

    Attributes:
        batch_size: number of images per batch.
        count: number of timed batches.
        min_ms: shortest execution time in milliseconds, without copies.
        mean_ms: mean execution time in milliseconds, without copies.
        median_ms: median execution time in milliseconds, without copies.
        p90_ms: 90th percentile of the execution times in milliseconds, without copies.
        p99_ms: 99th percentile of the execution times in milliseconds, without copies.
        max_ms: longest execution time in milliseconds, without copies.
        images_per_s: compute-only throughput in images per second, from the mean execution time.
        latency_median_ms: median latency in milliseconds; a latency is the time of execution and of
            the copies in both directions, as `trtexec` defines it.
        latency_p99_ms: 99th percentile of the latencies in milliseconds.
        throughput_images_per_s: wall-clock throughput in images per second; a device that can do so
            copies one batch while it executes another.
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
    """Returns the figures of batches of one size, of which there must be at least one.

    Args:
        batch_size: number of images per batch.
        compute_ns: execution time of each batch in nanoseconds, without copies.
        latencies_ns: time of each batch in nanoseconds, copies included.
        wall_ns: wall-clock time of all batches together in nanoseconds.
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
    """Returns the batch size with the most images per second, by the median duration.

    Rates that differ by less than the scatter of timings count as equal. Among these, the smallest
    batch size is returned, because it fills fastest and takes the least memory.

    Args:
        durations_ns: durations of batches in nanoseconds, by batch size.
    """
    rates = {size: size / float(np.median(times)) for size, times in durations_ns.items()}
    return min(size for size, rate in rates.items() if rate >= _AS_GOOD * max(rates.values()))


def stage_figures(durations: Mapping[str, Sequence[int]]) -> dict[str, StageFigures]:
    """Returns the figures of each stage.

    Args:
        durations: durations in nanoseconds, by stage.
    """
    return {stage: _figures(durations_ns) for stage, durations_ns in durations.items()}


def images_per_s(images: int, duration_ns: int) -> float:
    """Returns images per second, or 0 if nothing was timed."""
    return images * _NS / duration_ns if duration_ns else 0.0


def _figures(durations_ns: Sequence[int]) -> StageFigures:
    if not durations_ns:
        return StageFigures(count=0, total_ns=0, p50_ns=0, p90_ns=0, p99_ns=0, min_ns=0, max_ns=0)
    percentiles = np.percentile(np.asarray(durations_ns), (50, 90, 99)).tolist()
    p50, p90, p99 = map(round, percentiles)
    count, total_ns = len(durations_ns), sum(durations_ns)
    return StageFigures(
        count=count,
        total_ns=total_ns,
        p50_ns=p50,
        p90_ns=p90,
        p99_ns=p99,
        min_ns=min(durations_ns),
        max_ns=max(durations_ns),
    )
