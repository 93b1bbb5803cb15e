"""Checks of the pages that several commands write."""

from collections.abc import Sequence
from pathlib import Path

from distributed_pose.files.local import check_not_input
from distributed_pose.packages import require


def check_page(page: Path, runs: Sequence[str]) -> None:
    """Checks that a page can be drawn and would not overwrite a file of a run.

    Args:
        page: file to write.
        runs: output folders of the runs on the page.

    Raises:
        ConfigError: if the page is a file of a run.
        SetupError: if matplotlib is not installed.
    """
    from distributed_pose.report.run_report import CONFIG, DETECTIONS, REPORT

    names = (CONFIG, DETECTIONS, REPORT)
    check_not_input(page, {f"{name} of {run}": Path(run, name) for run in runs for name in names})
    require("matplotlib", extra="plots", purpose="a page of --html")
