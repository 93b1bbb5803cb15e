"""The working directory while Ray is joined, and what nodes say of their devices."""

from pathlib import Path

import pytest

from distributed_pose.cluster import ray_connection
from distributed_pose.cluster.ray_connection import _working_in


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
