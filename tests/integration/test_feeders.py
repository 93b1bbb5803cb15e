"""Processes that prepare images for a fast device: same detections, and faults without loss."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from distributed_pose import RunConfig
from distributed_pose.cluster import actors
from distributed_pose.evaluation import evaluate
from distributed_pose.run.state import RunState
from tests import faults
from tests.conftest import Dataset


def config_of(people: Dataset, repeat: int, **values: Any) -> RunConfig:
    return people.config(
        backend="simulated",
        simulated={"rate": 4000.0},
        profile="uint8",
        batch_size=4,
        gather="poses",
        data={"read": "worker", "repeat": repeat},
        **values,
    )


def detections(folder: Path) -> bytes:
    return (folder / "detections.json").read_bytes()


def own_feeders() -> list[psutil.Process]:
    """Returns the feeders' processes of the Ray that the tests have started."""
    found = []
    for process in psutil.process_iter():
        try:
            is_feeder = "ray::_FeederActor" in " ".join(process.cmdline())
            parent = process.parent()
            if is_feeder and parent and os.environ["RAY_TMPDIR"] in " ".join(parent.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_feeder_process_that_is_killed_changes_nothing(people: Dataset, tmp_path: Path) -> None:
    evaluate(config_of(people, 40), tmp_path / "inline")
    killed: list[int] = []

    def kill_one(state: RunState) -> None:
        if state.done and not killed:
            killed.append(own_feeders()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    config = config_of(people, 40, engine="ray", devices="cpu:1")
    report = evaluate(config, tmp_path / "ray", kill_one)
    assert report.devices[0].feeder_processes
    assert killed
    assert "prepares its images died" in str(report.faults.reasons["cpu:0"])
    assert detections(tmp_path / "ray") == detections(tmp_path / "inline")
    assert own_feeders() == []


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_image_that_kills_feeders_is_the_only_one_without_a_result(
    people: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "_WorkerActor", faults.WorkerWithDyingFeeders)
    report = evaluate(
        config_of(people, 1, engine="ray", devices="cpu:1", allow_failures=1), tmp_path
    )
    assert [failure.image_id for failure in report.failures] == [faults.KILLING_ID]
    assert report.num_images == 12
    assert report.is_usable
