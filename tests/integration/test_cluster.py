"""Which Ray a run uses: the cluster that the environment names, or one of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from distributed_pose import SetupError
from distributed_pose.evaluation import evaluate
from tests.conftest import Dataset


def test_a_run_joins_the_cluster_that_the_environment_names(
    people: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        report = evaluate(people.config(engine="ray", batch_size=2), tmp_path / "ray")
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
    evaluate(people.config(), tmp_path / "inline")
    names = ("ray", "inline")
    on_ray, inline = ((tmp_path / name / "detections.json").read_bytes() for name in names)
    assert on_ray == inline
    assert [device.name for device in report.devices] == ["cpu:0", "cpu:1"]
    assert all(device.images for device in report.devices)


def test_the_command_starts_a_quiet_local_ray_and_leaves_none(
    people: Dataset, tmp_path: Path
) -> None:
    keys = {"data.images": people.images, "data.annotations": people.annotations}
    options = [f"--set={key}={value}" for key, value in {**keys, "backend": "oracle"}.items()]
    command = [sys.executable, "-m", "distributed_pose", "evaluate", *options, "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    answer = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert (tmp_path / "runs" / "latest" / "report.json").read_text() == answer.stdout


def test_an_address_without_a_cluster_is_a_setup_error(
    people: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no such address")
    with pytest.raises(SetupError, match="RAY_ADDRESS"):
        evaluate(people.config(engine="ray"))
