"""Throughput and stage times of a run.

Wall-clock and compute-only throughput are two named figures: the first is what a user waits for,
the second what a device's data sheet speaks of.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from distributed_pose.records import STAGES, Durations

_NS = 1e9


@dataclass(frozen=True)
class StageFigures:
    """Durations of one stage in nanoseconds.

    One is of an image; of a batch for `inference` and `transfer`; of the run for `score`.
    """

    count: int
    total_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int


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
    """Returns images a second; 0 where nothing was timed."""
    return images * _NS / duration_ns if duration_ns else 0.0


def _figures(durations_ns: list[int]) -> StageFigures:
    if not durations_ns:
        return StageFigures(0, 0, 0, 0, 0)
    p50, p90, p99 = np.percentile(durations_ns, (50, 90, 99))
    return StageFigures(len(durations_ns), sum(durations_ns), round(p50), round(p90), round(p99))
