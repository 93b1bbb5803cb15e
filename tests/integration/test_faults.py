"""Devices, reducers and nodes that fail during a run, whose detections must not show it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import ExecutionError, RunConfig
from distributed_pose.cluster import loop
from distributed_pose.cluster.engine import RayEngine
from distributed_pose.engine.base import Workload
from distributed_pose.evaluation import evaluate, evaluate_on
from distributed_pose.records.shards import ShardResult
from distributed_pose.run.inputs import read_inputs
from tests import faults, metered_workers
from tests.conftest import Dataset
from tests.faults import Scene, Stage, killer
from tests.soak.runs import settled_ids

# Deadlines in the tests of what passes them: a second more than ten times the usual batch.
QUICK_S = 1.0


def on_ray(dataset: Dataset, **values: Any) -> RunConfig:
    return dataset.config(**{"engine": "ray", "batch_size": 4, "devices": "cpu:3", **values})


def detections(folder: Path) -> bytes:
    return (folder / "detections.json").read_bytes()


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        pytest.param("workers", {"gather": "maps"}, marks=pytest.mark.slow),
        ("workers", {"gather": "poses"}),
        ("reducers", {"reducers": 1}),
        pytest.param("reducers", {"reducers": 2}, marks=pytest.mark.slow),
    ],
)
def test_killed_processes_change_nothing(
    stage: Stage,
    crowd: Dataset,
    undisturbed: bytes,
    tmp_path: Path,
    kind: str,
    values: dict[str, Any],
) -> None:
    getattr(stage, kind)(faults.kill_first)
    report = evaluate(on_ray(crowd, **values), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert stage.scene.count("kill") == 3
    assert sum(map(len, report.faults.reasons.values())) == 3
    killed = {"workers": "cpu", "reducers": "reducer"}[kind]
    assert {name.partition(":")[0] for name in report.faults.reasons} == {killed}
    assert not report.faults.taken_out


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_twenty_workers_killed_at_random_change_nothing(
    stage: Stage, people: Dataset, tmp_path: Path
) -> None:
    many = people.times(56, tmp_path)
    evaluate(many.config(), tmp_path / "undisturbed")
    stage.workers(faults.serve)
    with killer(stage.scene, seed=0):
        report = evaluate(on_ray(many, devices="cpu:4"), tmp_path / "killed")
    assert report.failures == ()
    assert detections(tmp_path / "killed") == detections(tmp_path / "undisturbed")
    assert stage.scene.count("kill") >= 20


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("kind", ["workers", pytest.param("reducers", marks=pytest.mark.slow)])
def test_a_hanging_process_is_ended_and_its_batch_goes_elsewhere(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path, kind: str
) -> None:
    getattr(stage, kind)(faults.hang_once)
    report = evaluate(on_ray(crowd, deadline_s=QUICK_S), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert stage.scene.count("hang") == 1
    assert ["no answer for" in reason for (reason,) in report.faults.reasons.values()] == [True]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_without_progress_ends_and_describes_its_actors(
    stage: Stage, crowd: Dataset, tmp_path: Path
) -> None:
    stage.workers(faults.hang)
    stage.monkeypatch.setattr(loop, "_STALL_FACTOR", 0.1)
    with pytest.raises(ExecutionError, match=r"no result for \d+ s: cpu:0 .*reducer:0 is idle"):
        evaluate(on_ray(crowd, deadline_s=QUICK_S), tmp_path)


class CountingEngine(RayEngine):
    """Counts how often images come back."""

    copies = 1
    came_back = 0

    def run(self, workload: Workload) -> Iterator[ShardResult]:
        for result in super().run(workload):
            for _ in range(self.copies):
                self.came_back += len(result.image_ids)
                yield result


class MeteredEngine(RayEngine):
    """Marks when it has the energy of a device, and keeps what it has then."""

    def __init__(self, config: RunConfig, scene: Scene) -> None:
        super().__init__(config)
        self._scene = scene
        self.at_mark: Any = None

    def run(self, workload: Workload) -> Iterator[ShardResult]:
        for result in super().run(workload):
            (worker,) = self._fleet.workers
            found = worker.readings.total
            if not self.at_mark and found and found.device and found.device.energy_j:
                self.at_mark = found.device
                self._scene.mark("metered")
            yield result


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_readings_of_a_killed_process_count_in_those_of_the_session(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    stage.workers(metered_workers.die_when_metered)
    config = on_ray(crowd, devices="cpu:1")
    engine = MeteredEngine(config, stage.scene)
    report = evaluate_on(engine, config, read_inputs(config), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert [len(reasons) for reasons in report.faults.reasons.values()] == [1]
    first, (device,) = engine.at_mark, report.devices
    assert first is not None
    assert device.readings is not None
    # Only the first process has read so much memory in use.
    assert device.readings.memory_used_bytes == metered_workers.FIRST_BYTES
    assert device.readings.samples > first.samples
    assert (device.readings.energy_j or 0) > first.energy_j > 0
    assert device.readings.images >= first.images
    assert report.audit.energy_j == device.readings.energy_j
    assert device.images_per_joule == report.audit.images_per_joule


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_late_answer_beside_that_of_another_device_is_counted_once(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    stage.workers(faults.late_once)
    # What is late is given away after the rest, which must be done before its device is ended.
    config = on_ray(crowd, deadline_s=3 * QUICK_S)
    engine = CountingEngine(config)
    report = evaluate_on(engine, config, read_inputs(config), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert isinstance(config.batch_size, int)
    assert engine.came_back == report.num_images + config.batch_size
    assert not report.faults.reasons


@pytest.mark.usefixtures("local_ray")
def test_answers_that_come_twice_are_counted_once(
    crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    config = on_ray(crowd)
    engine = CountingEngine(config)
    engine.copies = 2
    report = evaluate_on(engine, config, read_inputs(config), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert engine.came_back == 2 * report.num_images
    assert sum(device.images for device in report.devices) == report.num_images


@pytest.mark.usefixtures("local_ray")
def test_an_answer_for_other_images_is_the_fault_of_its_device(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    stage.workers(faults.answer_again)
    report = evaluate(on_ray(crowd), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert stage.scene.count("again") == 1
    assert "answered for images" in str(report.faults.reasons)


SLOW = pytest.mark.slow


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("kind", "gather", "fault", "reason"),
    [
        ("workers", "maps", faults.maps_of_another, "its maps are of images"),
        ("workers", "poses", faults.poses_of_another, "grouped images"),
        ("workers", "maps", faults.other_type_once, "answered with bytes"),
        pytest.param("workers", "poses", faults.other_type_once, "answered with", marks=SLOW),
        pytest.param("reducers", "maps", faults.other_type_once, "with tuple", marks=SLOW),
        ("reducers", "maps", faults.answer_again, "grouped images"),
        pytest.param("reducers", "maps", faults.people_elsewhere, "not given", marks=SLOW),
        pytest.param(
            "reducers", "maps", faults.garbage_once, "detections that cannot be read", marks=SLOW
        ),
        pytest.param("reducers", "maps", faults.not_finite_once, "not finite", marks=SLOW),
    ],
)
def test_an_answer_that_is_not_for_its_question_is_tried_again_and_changes_nothing(
    stage: Stage,
    crowd: Dataset,
    undisturbed: bytes,
    tmp_path: Path,
    kind: str,
    gather: str,
    fault: faults.Fault,
    reason: str,
) -> None:
    getattr(stage, kind)(fault)
    report = evaluate(on_ray(crowd, gather=gather), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert stage.scene.count("again") == 1
    ((name, reasons),) = report.faults.reasons.items()
    assert name.startswith({"workers": "cpu", "reducers": "reducer"}[kind])
    assert reason in reasons[0]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_device_that_keeps_failing_is_excluded_and_named(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    stage.workers(faults.fail_on_cpu_1)
    report = evaluate(on_ray(crowd), tmp_path)
    assert detections(tmp_path) == undisturbed
    assert report.faults.taken_out == ("cpu:1",)
    assert "not finite" in report.faults.reasons["cpu:1"][-1]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_image_that_kills_every_process_is_the_only_one_that_fails(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path, batch_size: int
) -> None:
    stage.workers(faults.poison)
    report = evaluate(on_ray(crowd, batch_size=batch_size), tmp_path)
    assert {failure.image_id for failure in report.failures} == faults.POISONOUS
    assert "died" in report.failures[0].reason
    assert not report.complete
    assert report.ap is None
    assert json.loads(detections(tmp_path)) == [
        one for one in json.loads(undisturbed) if one["image_id"] not in faults.POISONOUS
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_without_devices_ends_and_keeps_its_results(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    stage.workers(faults.fail_after_six)
    with pytest.raises(ExecutionError, match=r"no device is left.*fell off the bus"):
        evaluate(on_ray(crowd), tmp_path)
    kept = len(settled_ids(tmp_path))
    stage.monkeypatch.undo()
    seen: list[int] = []
    evaluate(on_ray(crowd), tmp_path, lambda state: seen.append(state.done))
    assert 0 < seen[0] == kept < 120
    assert detections(tmp_path) == undisturbed
