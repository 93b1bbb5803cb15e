"""Writes detections as COCO results in JSON."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from distributed_pose.pose.scores import normalised_score

# Detections that are written at once; they take about a megabyte.
_ROWS_PER_PART = 2048


def detections_json(detections: Iterable[Mapping[str, Any]]) -> str:
    """Returns COCO results as JSON, one line per detection, each with its normalised score."""
    return "".join(detections_json_parts(detections))


def detections_json_parts(detections: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the JSON of `detections_json` in parts, so that it is never in memory as a whole."""
    listed = (
        {**detection, "score_normalised": normalised_score(detection["score"])}
        for detection in detections
    )
    rows = (json.dumps(detection, allow_nan=False) for detection in listed)
    before = "[\n"
    while part := ",\n".join(islice(rows, _ROWS_PER_PART)):
        yield before + part
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"
