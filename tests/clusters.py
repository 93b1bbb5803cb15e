"""Ray clusters on this machine whose nodes say that they have devices."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster


@contextmanager
def two_nodes(npus: int, cpus: int, gpus: int = 0, hpus: int = 0) -> Iterator[None]:
    """Joins this process to two nodes with so many devices of each kind, as Ray believes."""
    node: dict[str, Any] = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "object_store_memory": 100 * 2**20,
        "resources": {"NPU": npus, "HPU": hpus},
        "labels": {"soc": "310P3"},
    }
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def node_that_sees(address: str, mounts: Mapping[Path, Path], cpus: int = 1) -> Iterator[None]:
    """Adds a node to a cluster on which some folders are others.

    Args:
        address: of the cluster's head.
        mounts: what is to be seen in the place of which folder; the test is skipped where this
            user may not mount anything.
        cpus: of the node.
    """
    probe = ["unshare", "--mount", "true"]
    if not shutil.which("unshare") or subprocess.run(probe, check=False).returncode:
        pytest.skip("mounting a folder for one node alone needs `unshare --mount`")
    binds = [f'mount --bind "{there}" "{place}"' for place, there in mounts.items()]
    ray_command = Path(sys.executable).with_name("ray")
    start = f'exec "{ray_command}" start --address={address} --num-cpus={cpus} --block'
    before = len(alive_nodes())
    script = " && ".join([*binds, f"{start} --object-store-memory=100000000"])
    with subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    ) as process:
        try:
            end = time.monotonic() + 60
            while len(alive_nodes()) == before:
                assert time.monotonic() < end, "the node did not join"
                time.sleep(0.2)
            yield
        finally:
            process.terminate()


def alive_nodes() -> list[Any]:
    """Returns the nodes of the cluster that this process has joined."""
    return [node for node in ray.nodes() if node["Alive"]]
