"""Malformed logs and records are refused in one line, in time proportional to their size."""

import json
from contextlib import suppress
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from distributed_pose import SetupError
from distributed_pose.guide.sources import LogFacts, read_source
from tests.unit.guide.test_logs import AIS, LINE, PERF

PIECES = [
    *("[e2e] ", "[inference] throughputRate: ", "GPU Compute Time: ", "min = 1 ms, ", "a", "|"),
    *("NPU_compute_time (ms): ", "throughput 1000*batchsize(1)/NPU_compute_time", "--shapes="),
    *("Input inference shape: a", "| a (samples/s) ", "| a (samples/s) | 1 | 2 |\n", "\t \n", "\n"),
    *("1", "(samples/s", "GPU Compute Time:   \n", "\u2028|", "Selected Device: x\n", PERF, AIS),
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_log_of_repeated_parts_is_read_in_linear_time(piece: str, tmp_path: Path) -> None:
    seconds = []
    for size in (2**17, 2**20):
        path = tmp_path / "a.log"
        path.write_text("GPU Compute Time: " + piece * (size // len(piece)))
        start = process_time()
        with suppress(SetupError):
            read_source(path)
        seconds.append(process_time() - start)
    # The text is eight times as long. Quadratic time would be 64 times as long: minutes.
    assert seconds[1] < 20 * seconds[0] + 0.2


@pytest.mark.parametrize(
    "log",
    [
        LINE.replace("mean = 4.08213", "mean = 1e-320"),
        LINE.replace("min = 3.56421", "min = -1"),
        LINE.replace("max = 6.29639", "max = 1e999"),
        PERF.replace("755.13", "1e300"),
        PERF.replace("755.13", "-5"),
        AIS.format(how="(4)").replace(": 1250.0", ": 1e40"),
        AIS.format(how="(999999999999)"),
        AIS.format(how="(0)"),
        AIS.format(how=f"({'9' * 5000})"),
        LINE.replace("4.08213", "9" * 5000),
        "| m | a (samples/s) |\n| m | nan |\n",
        "| m | a (samples/s) | AP |\n| m | 5 | 7 |\n",
        "| m | a (samples/s) | AP |\n" + "| m | 5 | 0.4 |\n" * 1001,
    ],
)
def test_impossible_figures_are_an_error_of_one_line(log: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(log)
    with pytest.raises(SetupError, match=r"a\.log") as raised:
        read_source(path)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 500


def record(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "perf.txt"
    path.write_text(PERF)
    content: dict[str, Any] = json.loads(read_source(path, LogFacts("T4", 1, "f16", 0.4)).to_json())
    return content


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), "nonsense"),
        (("rows",), {}),
        (("rows", 0), 5),
        (("rows", 0, "total_images_per_s"), "755"),
        (("rows", 0, "total_images_per_s"), -1),
        (("rows", 0, "devices"), 0),
        (("rows", 0, "devices_per_card"), 0),
        (("rows", 0, "batch"), 2**70),
        (("rows", 0, "clock"), "sun"),
        (("rows", 0, "ap"), 2),
        (("rows", 0, "device"), None),
        (("perf", "rows", "e2e"), {}),
        (("perf", "rows", "e2e", "latency"), [1]),
        (("perf", "rows"), []),
        (("times",), {"min_ms": 1, "max_ms": 1, "mean_ms": 0, "median_ms": 1, "p99_ms": None}),
        (("notes",), [5]),
    ],
)
def test_a_record_with_invalid_values_is_an_error_that_names_their_place(
    place: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    content = record(tmp_path)
    inner: Any = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SetupError, match=str(place[0])) as raised:
        read_source(path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_record_is_read_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record(tmp_path)))
    assert json.loads(read_source(path).to_json()) == record(tmp_path)
