"""Ray clusters on this machine whose nodes say that they have devices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster


@contextmanager
def two_nodes(npus: int, cpus: int) -> Iterator[None]:
    """Joins this process to two nodes with so many NPUs and CPUs each, as far as Ray knows."""
    node: dict[str, Any] = {
        "num_cpus": cpus,
        "object_store_memory": 100 * 2**20,
        "resources": {"NPU": npus},
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
