"""The Ray of a run is the cluster that the environment names, or a local one of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from distributed_pose import SetupError
from distributed_pose.evaluation import evaluate
from distributed_pose.files.package_identity import package_identity
from distributed_pose.run.state import RunState
from tests import faults
from tests.clusters import node_that_sees, two_nodes
from tests.conftest import Dataset
from tests.faults import Stage, is_spilling

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def test_a_run_joins_the_cluster_that_the_environment_names(
    people: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
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


@pytest.mark.slow
def test_a_node_that_leaves_takes_its_devices_along_and_nothing_else(
    stage: Stage, crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    stage.workers(faults.stop_where_marked)
    try:
        second = cluster.add_node(**NODE)
        stage.scene.mark(f"leaving-{second.node_id}")
        ray.init(address=cluster.address, log_to_driver=False)

        def remove(_: RunState) -> None:
            if stage.scene.count("stopped") and stage.scene.once("removed"):
                cluster.remove_node(second)

        report = evaluate(crowd.config(engine="ray", batch_size=4), tmp_path, remove)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (tmp_path / "detections.json").read_bytes() == undisturbed
    assert len(report.faults.taken_out) == 1
    assert "node left" in report.faults.reasons[report.faults.taken_out[0]][-1]


@pytest.mark.slow
def test_an_object_store_of_a_hundred_megabytes_is_enough(
    crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 10**6
    )
    try:
        report = evaluate(crowd.config(engine="ray"), tmp_path)
        assert not is_spilling()
    finally:
        ray.shutdown()
    assert (tmp_path / "detections.json").read_bytes() == undisturbed
    assert report.memory.peak_object_store_bytes < 50 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("gather", ["maps", "poses"])
def test_a_node_with_other_code_is_refused_in_seconds_with_both_copies_named(
    people: Dataset, tmp_path: Path, gather: str
) -> None:
    package = Path(package_identity().path)
    other = tmp_path / "other"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__", "*.pth"))
    with (other / "pose" / "decode.py").open("a") as stream:
        stream.write("# another version\n")
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with node_that_sees(cluster.address, {package: other}):
            start = monotonic()
            with pytest.raises(SetupError, match=r"it runs distributed_pose .*, and the driver"):
                evaluate(people.config(engine="ray", gather=gather, reducers=4))
            assert monotonic() - start < 60
    finally:
        ray.shutdown()
        cluster.shutdown()


_ACTOR = """
@ray.remote(num_cpus=1)
class Trainer:
    def ready(self): return True
trainer = Trainer.remote()
print(ray.get(trainer.ready.remote()), flush=True)
time.sleep(120)
"""
_TASK = """
@ray.remote(num_cpus=1)
def train(folder):
    (folder / "started").touch()
    time.sleep(120)
task = train.remote(folder)
while not (folder / "started").exists(): time.sleep(0.1)
print(True, flush=True)
ray.get(task)
"""


@pytest.mark.slow
@pytest.mark.parametrize("work", [_ACTOR, _TASK], ids=["actor", "task"])
def test_what_another_job_holds_is_named_long_before_the_start_deadline(
    people: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    script = tmp_path / "trainer.py"
    script.write_text(
        "import ray, sys, time\nfrom pathlib import Path\n"
        "folder = Path(__file__).parent\n"
        "ray.init(address=sys.argv[1], log_to_driver=False)\n" + work
    )
    command = [sys.executable, script, cluster.address]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"True\n"
            monkeypatch.setenv("RAY_ADDRESS", cluster.address)
            start = monotonic()
            with pytest.raises(SetupError, match=r"free 0 of the 1 CPU .*trainer\.py"):
                evaluate(people.config(engine="ray", gather="poses"))
            # Long before the deadline of a start, which is five minutes.
            assert monotonic() - start < 60
            other.kill()
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_process_that_takes_long_to_start_is_not_what_holds_its_own_cpus(
    people: Dataset, tmp_path: Path
) -> None:
    delay = "import sys, time\nif 'default_worker' in str(sys.orig_argv): time.sleep(25)\n"
    (tmp_path / "sitecustomize.py").write_text(delay)
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path)}},
    )
    try:
        start = monotonic()
        report = evaluate(people.config(engine="ray", gather="poses"), tmp_path / "run")
        assert report.complete
        assert monotonic() - start > 20
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_workers_run_the_drivers_code_whatever_lies_in_the_working_directory(
    people: Dataset, tmp_path: Path
) -> None:
    for name in ("cv2", "distributed_pose"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user')\n")
    keys = {"data.images": people.images, "data.annotations": people.annotations}
    options = [f"--set={key}={value}" for key, value in {**keys, "backend": "oracle"}.items()]
    command = [
        str(Path(sys.executable).with_name("distributed-pose")),
        "evaluate",
        *options,
        "--json",
        "--quiet",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    answer = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_the_command_starts_a_quiet_local_ray_and_leaves_none(
    people: Dataset, tmp_path: Path
) -> None:
    keys = {"data.images": people.images, "data.annotations": people.annotations}
    options = [f"--set={key}={value}" for key, value in {**keys, "backend": "oracle"}.items()]
    command = [sys.executable, "-m", "distributed_pose", "evaluate", *options, "--json", "--quiet"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    sessions = Path(os.environ["RAY_TMPDIR"], "ray")
    before = {*sessions.glob("session_2*")}
    answer = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert {*sessions.glob("session_2*")} == before
    assert (tmp_path / "runs" / "latest" / "report.json").read_text() == answer.stdout


def test_an_address_without_a_cluster_is_a_setup_error(
    people: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no such address")
    with pytest.raises(SetupError, match="RAY_ADDRESS"):
        evaluate(people.config(engine="ray"))


@pytest.mark.slow
def test_several_workers_share_each_card_and_answer_as_one(people: Dataset, tmp_path: Path) -> None:
    config = people.config(engine="ray", devices="cuda:*", cuda={"workers_per_device": 2})
    with two_nodes(npus=0, cpus=2, gpus=1):
        report = evaluate(config, tmp_path / "shared")
    assert [(device.name, device.id, device.physical_id) for device in report.devices] == [
        (f"cuda:{card}{worker}", card, "0") for card in range(2) for worker in ("", ".1")
    ]
    evaluate(people.config(), tmp_path / "inline")
    first, second = ((tmp_path / n / "detections.json").read_bytes() for n in ("shared", "inline"))
    assert first == second


@pytest.mark.slow
def test_each_actor_has_its_own_device_where_ray_hides_none(
    stage: Stage, crowd: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES", "1")
    stage.workers(faults.record_place)
    for _ in range(4):
        stage.scene.mark("devices")
    with two_nodes(npus=2, cpus=2):
        evaluate(
            crowd.config(engine="ray", devices="npu:*", batch_size=2, feeders=1), tmp_path / "run"
        )
    places = [json.loads(path.read_text()) for path in stage.scene.folder.glob("place.*")]
    seen = {(place["node"], place["seen"]) for place in places}
    assert len(seen) == 4
    assert {device for _, device in seen} == {"0", "1"}


@pytest.mark.slow
def test_a_worker_that_ray_ends_for_lack_of_memory_is_reported_with_the_figures(
    stage: Stage,
    crowd: Dataset,
    undisturbed: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two gigabytes more than are used now are too many.
    memory = psutil.virtual_memory()
    limit = (memory.total - memory.available + 2 * 2**30) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    stage.workers(faults.grow_once)
    report = evaluate(crowd.config(engine="ray", deadline_s=60.0), tmp_path)
    assert (tmp_path / "detections.json").read_bytes() == undisturbed
    reasons = " ".join(reason for found in report.faults.reasons.values() for reason in found)
    assert re.search(r"for lack of memory: its node used [\d.]+GB of [\d.]+GB", reasons), reasons


@pytest.fixture
def half_blind(people: Dataset, tmp_path: Path) -> Iterator[str]:
    """A cluster whose second node sees two of the images alone; yields its address."""
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(people.images.iterdir())[:2]:
        shutil.copy(path, some)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with node_that_sees(cluster.address, {people.images: some}):
            yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("half_blind")
def test_a_node_that_cannot_see_the_images_is_distinguished_from_broken_images(
    crowd: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    for gather in ("maps", "poses"):
        config = crowd.config(
            engine="ray", gather=gather, batch_size=2, data={"read": "worker"}, reducers=1
        )
        report = evaluate(config, tmp_path / gather)
        assert report.complete
        assert (tmp_path / gather / "detections.json").read_bytes() == undisturbed
        # Both nodes have one address, and either may be the first.
        (blind,) = report.faults.taken_out
        assert "cannot read" in report.faults.reasons[blind][0]


@pytest.mark.slow
def test_a_node_without_any_image_is_named_at_the_start(people: Dataset, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with node_that_sees(cluster.address, {people.images: tmp_path / "empty"}):
            config = people.config(engine="ray", gather="poses", data={"read": "worker"})
            with pytest.raises(
                SetupError, match=r"device cpu:\d\] on node .*: cannot read .*all nodes"
            ):
                evaluate(config, tmp_path / "run")
    finally:
        ray.shutdown()
        cluster.shutdown()
