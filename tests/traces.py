"""Reads and checks traces in Chrome's format.

Source: "Trace Event Format", the description of the format by the Chromium project.
"""

from collections import defaultdict
from typing import Any

Event = dict[str, Any]


def slices(events: list[Event], process: int = 1) -> dict[str, tuple[float, float]]:
    """Returns start and duration of the last slice of each name, in milliseconds."""
    return {
        event["name"]: (event["ts"] / 1e3, event["dur"] / 1e3)
        for event in events
        if event["ph"] == "X" and event["pid"] == process
    }


def check_format(trace: dict[str, Any]) -> None:
    """Checks the fields that the description of the format documents."""
    assert isinstance(trace["traceEvents"], list)
    assert trace["displayTimeUnit"] in {"ms", "ns"}
    for event in trace["traceEvents"]:
        assert type(event["pid"]) is type(event["tid"]) is int
        assert isinstance(event["name"], str)
        if event["ph"] == "M":
            key = {"name": "name", "sort_index": "sort_index"}[event["name"].partition("_")[2]]
            assert event["name"].startswith(("process_", "thread_"))
            assert isinstance(event["args"][key], str if key == "name" else int)
        elif event["ph"] == "i":
            assert event["s"] in {"g", "p", "t"}
            assert event["ts"] >= 0
        else:
            assert event["ph"] == "X"
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert isinstance(event.get("args", {}), dict)


def check_rows(events: list[Event]) -> None:
    """Checks that the slices of a row lie in each other or after each other, as readers demand."""
    rows: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            start_ns, dur_ns = round(event["ts"] * 1e3), round(event["dur"] * 1e3)
            rows[event["pid"], event["tid"]].append((start_ns, start_ns + dur_ns))
    for spans in rows.values():
        open_ends: list[int] = []
        for start_ns, end_ns in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= start_ns:
                open_ends.pop()
            assert not open_ends or end_ns <= open_ends[-1]
            open_ends.append(end_ns)
