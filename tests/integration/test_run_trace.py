"""`evaluate --trace` writes a trace of a run, which does not change its detections."""

import json
from pathlib import Path
from typing import Any

import pytest

from distributed_pose.cli.tracing import traced
from distributed_pose.errors import ExecutionError
from distributed_pose.records.facts import Faults
from distributed_pose.run.ledger import Ledger
from distributed_pose.run.state import RunState
from tests.conftest import Dataset, Run
from tests.traces import check_format, check_rows, slices


def settings(dataset: Dataset, **values: object) -> list[str]:
    keys = {
        "data.images": dataset.images,
        "data.annotations": dataset.annotations,
        "backend": "oracle",
        "batch_size": 4,
        **values,
    }
    return [f"--set={key}={value}" for key, value in keys.items()]


def read_trace(path: str) -> dict[str, Any]:
    trace: dict[str, Any] = json.loads(Path(path).read_text())
    check_format(trace)
    check_rows(trace["traceEvents"])
    return trace


def num_images(trace: dict[str, Any], name: str) -> int:
    events = trace["traceEvents"]
    return sum(event["args"]["images"] for event in events if event["name"] == name)


@pytest.mark.parametrize("gather", ["maps", "poses"])
@pytest.mark.parametrize("profile", ["modelzoo", "upstream"])
def test_the_trace_has_every_image_and_the_detections_stay_the_same(
    run: Run, people: Dataset, gather: str, profile: str
) -> None:
    options = settings(people, engine="inline", gather=gather, profile=profile, devices="cpu:2")
    run("evaluate", *options, "--output", "without")
    code, _, _ = run("evaluate", *options, "--output", "with", "--trace", "trace.json")
    assert code == 0
    files = [Path(name, "detections.json") for name in ("without", "with")]
    assert files[0].read_bytes() == files[1].read_bytes()
    trace = read_trace("trace.json")
    for name in ("shard", "batch", "compute"):
        assert num_images(trace, name) == 12
    found = slices(trace["traceEvents"])
    assert ("wait for a reducer" in found) == (gather == "maps")
    assert {"read", "decode and preprocess", "wait for the device", "group"} <= found.keys()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("gather", ["maps", "poses"])
@pytest.mark.parametrize("read", ["driver", "worker"])
def test_the_trace_of_a_run_on_ray_has_every_image_and_the_waits(
    run: Run, people: Dataset, gather: str, read: str
) -> None:
    options = settings(people, **{"gather": gather, "data.read": read, "devices": "cpu:2"})
    code, _, _ = run("evaluate", *options, "--output", "run", "--trace", "trace.json")
    assert code == 0
    trace = read_trace("trace.json")
    assert num_images(trace, "batch") == num_images(trace, "shard") == 12
    names = {event["name"] for event in trace["traceEvents"]}
    assert ("wait for a reducer" in names) == (gather == "maps")


def test_a_trace_is_not_written_over_the_configuration(run: Run, people: Dataset) -> None:
    run("evaluate", *settings(people), "--set=engine=inline", "--output", "first")
    for target in ("first/config.yaml", "first"):
        arguments = ("--config", "first/config.yaml", "--output", "first", "--trace", target)
        code, _, err = run("evaluate", *arguments)
        assert (code, len(err.splitlines())) == (2, 1)
        assert target in err


def test_a_run_that_fails_leaves_its_trace(tmp_path: Path) -> None:
    seen: list[RunState] = []

    def fail() -> None:
        with traced(tmp_path / "trace.json", seen.append) as watch:
            watch(RunState(Ledger(()), 0, (), Faults))
            raise ExecutionError("the run fails")

    with pytest.raises(ExecutionError, match="the run fails"):
        fail()
    assert len(seen) == 1
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"] == []
