"""Joining Ray: the working directory, what nodes say of their devices, other versions of Ray."""

from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.utils import check_version_info

from distributed_pose import SetupError
from distributed_pose.cluster import connection as ray_connection
from distributed_pose.cluster.address import ClusterAddress
from distributed_pose.cluster.connection import _join, _working_in


def test_a_working_directory_that_is_deleted_meanwhile_is_gone_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    with _working_in(tmp_path):
        assert Path.cwd() == tmp_path
        (tmp_path / "job").rmdir()
    with pytest.raises(FileNotFoundError):
        Path.cwd()
    monkeypatch.chdir(tmp_path)


def test_the_working_directory_is_the_one_before_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    with pytest.raises(ValueError, match="any"), _working_in(tmp_path):
        raise ValueError("any")
    assert Path.cwd() == tmp_path / "job"


@pytest.mark.parametrize(
    ("labels", "kind", "model"),
    [
        ({"ray.io/accelerator-type": "Ascend910B4-1"}, "npu", "910B4-1"),
        ({"ray.io/accelerator-type": "Ascend310P3", "soc": "310"}, "npu", "310P3"),
        ({"soc": "310P3"}, "npu", "310P3"),
        ({"ray.io/accelerator-type": "T4", "soc": "310P3"}, "npu", "310P3"),
        ({"ray.io/accelerator-type": "T4", "soc": "310P3"}, "cuda", "T4"),
        ({"ray.io/accelerator-type": "T4"}, "npu", ""),
        ({}, "cuda", ""),
    ],
)
def test_a_nodes_labels_name_its_devices_rays_before_ours(
    labels: dict[str, str], kind: str, model: str
) -> None:
    node = {"Labels": labels, "NodeManagerAddress": "another", "Resources": {"NPU": 2, "GPU": 2}}
    found = [device for device in ray_connection._accelerators(node) if device.kind == kind]
    assert [(device.device_id, device.model) for device in found] == [("0", model), ("1", model)]


def test_a_cluster_of_another_ray_is_an_error_that_says_what_to_run_it_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: Any) -> None:
        # What Ray itself does with what it has got from the cluster.
        check_version_info({"ray_version": "1.13.0", "python_version": "3.10.4"}, "this node")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SetupError) as error:
        _join(ClusterAddress("10.0.0.1:6379", "RAY_ADDRESS", "correct it"), {})
    assert "Ray: 1.13.0 Python: 3.10.4" in str(error.value)
    assert "the cluster's versions of Ray and Python" in str(error.value)
    assert "\n" not in str(error.value)
