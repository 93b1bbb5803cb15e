"""Reads the figures of a run from its `report.json`, and ignores all other fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import FailFast

from distributed_pose.files.json_records import (
    AveragePrecision,
    Count,
    Figure,
    Positive,
    read_record,
)
from distributed_pose.records.stages import STAGES

_STAGES = tuple(stage for stage in STAGES if stage != "score")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFigures:
    """The figures of one device, a part of `run_report.DeviceReport`."""

    description: str
    backend: str
    precision: str
    batch_size: Positive
    images: Count
    compute_images_per_s: Figure | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """The throughput of all devices, a part of `run_report.Throughput`."""

    wall_images_per_s: Figure
    wall_s: Figure
    compute_images_per_s: Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """The times of one stage in nanoseconds, a part of `metrics.throughput.StageFigures`."""

    count: Count
    total_ns: Count
    min_ns: Count
    max_ns: Count
    p50_ns: Count
    p99_ns: Count


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFigures:
    """The figures of a run, a part of `run_report.RunReport`."""

    num_images: Count
    partial_by_choice: bool
    ap: Mapping[str, AveragePrecision] | None
    devices: Annotated[tuple[DeviceFigures, ...], FailFast()]
    throughput: Rates
    stages: Mapping[str, StageTimes]


def read_run_figures(content: str) -> RunFigures:
    """Returns the figures of a run.

    Args:
        content: text of a `report.json`.

    Raises:
        ValueError: if a required field is missing or invalid; the message names the field.
    """
    run = read_record(RunFigures, content)
    if missing := [stage for stage in _STAGES if stage not in run.stages]:
        raise ValueError(f"stages: {missing[0]} is missing")
    if run.throughput.compute_images_per_s and "total" not in run.throughput.compute_images_per_s:
        raise ValueError("throughput.compute_images_per_s: total is missing")
    if run.ap is not None and "AP" not in run.ap:
        raise ValueError("ap: AP is missing")
    if not run.devices:
        raise ValueError("devices: the list is empty")
    return run
