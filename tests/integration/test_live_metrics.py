"""Ray's metrics endpoint serves the figures of a run while it runs, and its report's at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.cluster_utils import Cluster

from distributed_pose.evaluation import evaluate
from distributed_pose.run.state import RunState
from tests.conftest import Dataset

# Ray's processes report every ten seconds.
_DEADLINE_S = 90.0

Samples = dict[tuple[str, str, str], float]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def scrape(cluster: Cluster) -> Samples:
    """Returns the samples of the endpoint by name without the prefix, device and stage."""
    node: Any = cluster.head_node
    address = f"http://{node.node_ip_address}:{node.metrics_export_port}/metrics"
    try:
        with urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
    except (URLError, TimeoutError):
        return {}
    prefix = "ray_distributed_pose_"
    return {
        (
            sample.name.removeprefix(prefix),
            sample.labels.get("device", ""),
            sample.labels.get("stage", ""),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def scrape_until(cluster: Cluster, is_met: Callable[[Samples], bool]) -> Samples:
    deadline = monotonic() + _DEADLINE_S
    while not is_met(samples := scrape(cluster)):
        assert monotonic() < deadline, samples
        sleep(0.5)
    return samples


def images(samples: Samples) -> float:
    return sum(value for (name, _, _), value in samples.items() if name == "images_total")


@pytest.mark.slow
def test_the_endpoint_follows_a_run_and_ends_with_the_figures_of_its_report(
    cluster: Cluster, crowd: Dataset, tmp_path: Path
) -> None:
    during: list[Samples] = []

    def look(state: RunState) -> None:
        # The run waits for the scrape, since it takes less time than Ray's reporting interval.
        if state.done and not during:
            during.append(scrape_until(cluster, lambda samples: images(samples) > 0))

    report = evaluate(crowd.config(engine="ray", batch_size=4), tmp_path, look)
    assert 0 < images(during[0]) < report.num_images
    assert during[0]["session_images", "", ""] == report.num_images
    samples = scrape_until(cluster, lambda found: images(found) >= report.num_images)
    for device in report.devices:
        assert samples["images_total", device.name, ""] == device.images
        assert samples["batches_in_flight", device.name, ""] == 0
        assert samples["excluded", device.name, ""] == 0
        assert samples["stage_sample_seconds_count", device.name, "compute"] >= 1
    for stage in ("read", "decode_jpeg", "preprocess", "compute", "limbs"):
        total_s = sum(samples["stage_seconds_total", one.name, stage] for one in report.devices)
        assert total_s == pytest.approx(report.stages[stage].total_ns / 1e9)
    assert not any(name == "failed_images_total" for name, _, _ in samples)
