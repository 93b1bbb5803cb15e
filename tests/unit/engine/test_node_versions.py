"""Workers report the versions of their libraries, and differences between nodes are logged."""

import json
import platform
import socket
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest

from distributed_pose.engine.node_versions import differences, versions
from distributed_pose.evaluation import evaluate
from distributed_pose.files.package_identity import package_identity
from distributed_pose.records.devices import DevicePlan, DeviceReady
from tests.conftest import Dataset


def ready(name: str, node: str = "", **versions: str) -> DeviceReady:
    plan = DevicePlan(name=name, kind="cpu", node=node, node_id="", cpus=1.0)
    return DeviceReady(
        plan=plan,
        backend="openvino",
        precision="f32",
        description="CPU",
        batch_size=1,
        warmup_ns=0,
        host="a-host",
        versions=tuple(versions.items()),
    )


@pytest.mark.parametrize(
    ("backend", "runtime"),
    [("openvino", "openvino"), ("onnxruntime:cpu", "onnxruntime"), ("torch:cpu", "torch")],
)
def test_a_worker_reports_the_versions_of_the_software_that_computes(
    backend: str, runtime: str
) -> None:
    found = versions(backend, "cpu")
    assert found["numpy"] == np.__version__
    assert found["opencv"] == cv2.__version__
    assert found["python"] == platform.python_version()
    assert found[runtime] == version(runtime)
    assert package_identity().digest in found["distributed-pose"]


def test_the_version_of_cann_is_that_which_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cann" not in versions("ascend", "npu")
    (tmp_path / "version.info").write_text("Version=8.0.0\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert versions("ascend", "npu")["cann"] == "8.0.0"
    assert "cann" not in versions("openvino", "cpu")


def test_versions_that_differ_are_reported_once_with_a_device_of_each() -> None:
    devices = [
        ready("cpu:0", "10.0.0.1", numpy="2.1.0", opencv="4.12.0"),
        ready("cpu:1", "10.0.0.1", numpy="2.1.0", opencv="4.12.0"),
        ready("cpu:2", "10.0.0.2", numpy="2.1.0", opencv="4.9.0", torch="2.9.0"),
    ]
    assert [*differences(devices)] == [
        "opencv is not the same on all nodes: 4.12.0 on cpu:0 (10.0.0.1), 4.9.0 on cpu:2 (10.0.0.2)"
    ]
    assert not [*differences(devices[:2])]


def test_the_report_has_host_and_versions_of_each_device(people: Dataset, tmp_path: Path) -> None:
    evaluate(people.config(devices=["cpu:2"]), tmp_path)
    devices = json.loads((tmp_path / "report.json").read_text())["devices"]
    assert len(devices) == 2
    for device in devices:
        assert device["host"] == socket.gethostname()
        assert device["versions"]["opencv"] == cv2.__version__
    # They are kept with the results, so that a run that is only resumed reports them, too, whatever
    # another run in this process has found.
    for _ in range(2):
        evaluate(people.config(devices=["cpu:2"], feeders=3), tmp_path / "other")
    evaluate(people.config(), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["devices"] == devices
