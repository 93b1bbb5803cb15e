"""Writes a stored run with the analysis of its AP as JSON."""

import json
from dataclasses import asdict

from distributed_pose.report.stored_run import StoredRun


def run_json(run: StoredRun) -> str:
    """Returns report and analysis of a run as indented JSON.

    The keys are `report`, as in `report.json`; `analysis`, which is null if there is none; and
    `unavailable`, the reason for that, otherwise empty.

    Args:
        run: the stored run.
    """
    analysis, reason = run.analysis_or_reason
    record = {
        "report": asdict(run.report),
        "analysis": asdict(analysis) if analysis else None,
        "unavailable": reason,
    }
    return json.dumps(record, indent=2, allow_nan=False) + "\n"
