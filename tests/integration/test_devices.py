"""Devices of a cluster: found, selected, pinned, and mixed in one run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import SetupError
from distributed_pose.cluster.planned import planned_devices
from distributed_pose.cluster.survey import survey_all
from distributed_pose.evaluation import evaluate
from distributed_pose.report.run_report import RunReport
from tests import faults
from tests.clusters import two_nodes
from tests.conftest import Dataset
from tests.faults import Scene, Stage
from tests.tiny_models import save_constant_model


@pytest.fixture(scope="module")
def npus() -> Iterator[None]:
    """Two nodes with two NPUs each, as far as Ray knows."""
    with two_nodes(npus=2, cpus=2):
        yield


def places(scene: Scene) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(scene.folder.glob("place.*"))]


def physical(report: RunReport) -> list[tuple[str, str]]:
    return [(device.name, device.physical_id) for device in report.devices]


@pytest.mark.slow
@pytest.mark.usefixtures("npus")
def test_four_actors_are_on_four_devices_and_a_killed_one_comes_back_on_its_own(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    stage.workers(faults.record_place)
    for _ in range(4):
        stage.scene.mark("devices")
    report = evaluate(
        crowd.config(engine="ray", devices="npu:*", batch_size=2, feeders=1), tmp_path / "run"
    )
    assert (tmp_path / "run" / "detections.json").read_bytes() == undisturbed
    found = places(stage.scene)
    by_name = {p["name"]: (p["node"], tuple(p["ids"])) for p in found}
    assert len(by_name) == len(set(by_name.values())) == 4
    assert {ids for _, ids in by_name.values()} == {("0",), ("1",)}
    assert all(p["seen"] == p["ids"][0] for p in found)
    # The killed one's two processes, on the same device of the same node.
    again = [p for p in found if p["name"] == "npu:1"]
    assert len({p["pid"] for p in again}) == 2
    assert {(p["node"], tuple(p["ids"])) for p in again} == {by_name["npu:1"]}
    assert physical(report) == [("npu:0", "0"), ("npu:1", "1"), ("npu:2", "0"), ("npu:3", "1")]
    assert {device.kind for device in report.devices} == {"npu"}


@pytest.mark.usefixtures("npus")
@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param(["npu:1"], [("npu:1", "1")], marks=pytest.mark.slow),
        pytest.param(["npu:2", "npu:1"], [("npu:1", "1"), ("npu:2", "0")], marks=pytest.mark.slow),
        (["npu:1", "cpu"], [("cpu:0", ""), ("npu:1", "1")]),
    ],
)
def test_a_part_of_the_devices_are_those_of_these_numbers(
    people: Dataset, tmp_path: Path, devices: list[str], expected: list[tuple[str, str]]
) -> None:
    config = people.config(engine="ray", devices=devices, batch_size=1)
    report = evaluate(config, tmp_path / "some")
    assert physical(report) == expected
    evaluate(people.config(), tmp_path / "inline")
    first, second = ((tmp_path / n / "detections.json").read_bytes() for n in ("some", "inline"))
    assert first == second


@pytest.mark.slow
@pytest.mark.usefixtures("npus")
def test_kinds_are_mixed_each_with_its_own_batch_size_and_the_faster_takes_more(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    del stage
    report = evaluate(
        crowd.config(
            engine="ray",
            devices=["npu:0", "cpu"],
            backend="simulated",
            # The devices are slower than this machine draws their maps.
            simulated={"overhead_ms": 200.0},
            npu={"backend": "simulated:ascend310p3", "batch_size": 6},
            cpu={"backend": "simulated:ascend310", "batch_size": 4},
        ),
        tmp_path,
    )
    assert (tmp_path / "detections.json").read_bytes() == undisturbed
    cpu, npu = report.devices
    assert (cpu.backend, cpu.batch_size) == ("simulated:ascend310", 4)
    assert (npu.backend, npu.batch_size) == ("simulated:ascend310p3", 6)
    assert npu.images > cpu.images > 0
    assert report.backend == "simulated:ascend310+simulated:ascend310p3"


@pytest.mark.usefixtures("npus")
def test_a_worker_on_a_cpu_sees_no_npu_of_its_node(
    stage: Stage, people: Dataset, tmp_path: Path
) -> None:
    stage.workers(faults.record_place)
    evaluate(people.config(engine="ray", devices="cpu"), tmp_path / "run")
    (place,) = places(stage.scene)
    assert (place["ids"], place["seen"]) == ([], "")


@pytest.mark.usefixtures("npus")
def test_devices_are_listed_with_the_facts_that_their_nodes_report(people: Dataset) -> None:
    listed = planned_devices(people.config(engine="ray", devices="npu:*"))
    assert [(plan.name, plan.device_id, plan.model) for plan in listed] == [
        ("npu:0", "0", "310P3"),
        ("npu:1", "1", "310P3"),
        ("npu:2", "0", "310P3"),
        ("npu:3", "1", "310P3"),
    ]


@pytest.mark.usefixtures("npus")
def test_a_missing_device_is_a_setup_error_that_lists_the_available_ones(people: Dataset) -> None:
    with pytest.raises(SetupError, match=r"no device npu:4: found npu:0, npu:1, npu:2, npu:3"):
        evaluate(people.config(engine="ray", devices="npu:4"))


@pytest.mark.usefixtures("npus")
def test_each_node_is_asked_which_backends_can_run_its_devices(people: Dataset) -> None:
    found = survey_all(people.config(backend="auto", engine="ray"))
    assert [device.plan.name for device in found.devices] == [
        *(f"npu:{number}" for number in range(4)),
        "cpu:0",
        "cpu:1",
    ]
    npu, cpu = found.devices[3], found.devices[5]
    assert [ready.backend for ready in npu.backends] == ["ascend", "ascend-ais", "onnxruntime:cann"]
    assert all(ready.missing("onnx") for ready in npu.backends)
    assert (npu.takes, cpu.takes) == ("", "openvino")
    assert len(found.nodes) == 2
    assert not found.is_ready


@pytest.mark.usefixtures("npus")
def test_a_run_on_devices_without_any_backend_says_what_each_lacks(
    people: Dataset, tmp_path: Path
) -> None:
    model = {"path": str(save_constant_model(tmp_path / "model.onnx"))}
    config = people.config(backend="auto", engine="ray", devices="npu:0", model=model)
    message = (
        r"device npu:0\] no backend can run .* npu .*: ascend lacks .*; onnxruntime:cann lacks"
    )
    with pytest.raises(SetupError, match=message):
        evaluate(config)
