"""Logs a finished run to the trackers of its configuration."""

import logging
from collections.abc import Iterable
from pathlib import Path

import yaml

from distributed_pose.config.schema import RunConfig
from distributed_pose.errors import ConfigError, SetupError, first_line, shown
from distributed_pose.locations import Location, redacted
from distributed_pose.packages import is_installed, load
from distributed_pose.report.run_report import CONFIG, REPORT, RunReport
from distributed_pose.tracking.base import TRACKERS, TrackedRun, metrics_of, parameters_of

_LOG = logging.getLogger(__name__)


def check_trackers(names: Iterable[str]) -> None:
    """Checks that trackers exist and are installed, so that no run ends without its log.

    Args:
        names: names of the trackers.

    Raises:
        ConfigError: if there is no such tracker.
        SetupError: if a tracker is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(
                f"track: there is no tracker {shown(name)}", f"choose from {', '.join(TRACKERS)}"
            )
        tracker = TRACKERS[name]
        if not is_installed(tracker.module):
            text = f"track: {name} needs {tracker.module}, which is not installed"
            raise SetupError(text, tracker.install)


def track(config: RunConfig, report: RunReport, location: Location | None) -> None:
    """Logs a run to the trackers of its configuration; one that fails becomes a warning.

    Args:
        config: configuration of the run.
        report: report of the run.
        location: folder of the run; None if it has none.
    """
    if not config.track:
        return
    run = tracked_run(config, report, location)
    for name in dict.fromkeys(config.track):
        try:
            load(TRACKERS[name].log)(run)
        # Trackers fail in many ways, and the run has its result whatever they do.
        except Exception as error:  # noqa: BLE001
            _LOG.warning("%s has no record of this run: %s", name, redacted(first_line(error)))


def tracked_run(config: RunConfig, report: RunReport, location: Location | None) -> TrackedRun:
    """Returns what trackers log about a run; see `track`."""
    resolved = config.model_dump(mode="json")
    text = str(location).rstrip("/") if location else ""
    return TrackedRun(
        name=config.label or text.rpartition("/")[2],
        folder=Path(location.plain) if location and not location.is_uri else None,
        parameters=parameters_of(resolved, report),
        metrics=metrics_of(report),
        files={REPORT: report.to_json(), CONFIG: yaml.safe_dump(resolved, sort_keys=False)},
    )
