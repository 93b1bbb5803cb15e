"""The trackers by name, and what they log about a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed_pose.packages import Registry
from distributed_pose.report.run_report import RunReport


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """What a tracker logs about a finished run.

    Attributes:
        name: label of the run, or the name of its folder; empty if it has neither.
        folder: folder of the run on this machine; None for a run without one.
        parameters: resolved configuration by dotted key, with commit and code of this package.
        metrics: figures of the run by name; undefined and unknown figures are left out.
        files: text of `report.json` and `config.yaml`, by name.
    """

    name: str
    folder: Path | None
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    files: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracker:
    """A tracker.

    Attributes:
        module: top-level module that the tracker needs.
        install: command that installs the module.
        log: location, `module:function`, of a function that logs a `TrackedRun`. It may raise any
            exception, which becomes a warning.
    """

    module: str
    install: str
    log: str


_ROOM = "distributed_pose.tracking"


def _own(name: str, module: str) -> Tracker:
    return Tracker(
        module=module,
        install=f"pip install 'distributed-pose[{name}]'",
        log=f"{_ROOM}.{name}:log",
    )


TRACKERS: Registry[Tracker] = Registry(
    "distributed_pose.trackers",
    Tracker,
    {name: _own(name, name) for name in ("mlflow", "tensorboard", "wandb")},
    names=r"[a-z][a-z0-9_-]{0,31}",
)


def metrics_of(report: RunReport) -> dict[str, float]:
    """Returns the figures of a report by name, such as `AP` or `device/cuda:0/images`."""
    found = dict(_metrics(report))
    # COCO has -1 for figures that no labelled person defines.
    found |= {name: value for name, value in (report.ap or {}).items() if value != -1}
    return {name: float(value) for name, value in found.items() if value is not None}


def parameters_of(config: Mapping[str, Any], report: RunReport) -> dict[str, str]:
    """Returns a resolved configuration by dotted key, with commit and code of this package.

    Args:
        config: resolved configuration.
        report: report of the run.
    """
    code = {"audit.commit": report.audit.commit, "audit.code": report.audit.code}
    return {**dict(_flat(config, "")), **code}


def _metrics(report: RunReport) -> Iterator[tuple[str, float | None]]:
    throughput = report.throughput
    yield "wall_images_per_s", throughput.wall_images_per_s
    yield "compute_images_per_s", throughput.compute_images_per_s.get("total")
    yield "wall_s", throughput.wall_s
    yield "warmup_s", report.warmup_s
    yield "num_images", report.num_images
    yield "failures", len(report.failures)
    yield "images_per_joule", report.audit.images_per_joule
    for device in report.devices:
        yield f"device/{device.name}/images", device.images
        yield f"device/{device.name}/compute_images_per_s", device.compute_images_per_s
        yield f"device/{device.name}/busy_share", device.busy_share
        yield f"device/{device.name}/images_per_joule", device.images_per_joule


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
