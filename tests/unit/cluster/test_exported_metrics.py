"""The shipped Grafana dashboard queries all metrics that a run exports, and no others."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from distributed_pose.cluster.live_metrics import Metrics

LAUNCH = Path(__file__).parents[3] / "launch"
_METRIC = re.compile(r"\bray_(distributed_pose_\w+?)(?:_bucket)?\b(?=\W)")
_GROUPS = re.compile(r"\b(?:by|on|without|ignoring) \(([\w, ]*)\)")


def dashboard() -> Any:
    return json.loads((LAUNCH / "grafana-dashboard.json").read_text())


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def exported() -> dict[str, dict[str, Any]]:
    return {metric.info["name"]: metric.info for metric in vars(Metrics()).values()}


def test_the_dashboard_queries_exactly_the_exported_metrics() -> None:
    queried = {name for expression in expressions() for name in _METRIC.findall(expression)}
    assert queried == {*exported()}


def test_every_query_is_of_the_chosen_runs() -> None:
    for expression in expressions():
        assert len(_METRIC.findall(expression)) == expression.count('{run=~"$run"}'), expression


def test_queries_group_by_labels_that_their_metrics_have() -> None:
    metrics = exported()
    for expression in expressions():
        known = {key for name in _METRIC.findall(expression) for key in metrics[name]["tag_keys"]}
        groups = {key for group in _GROUPS.findall(expression) for key in group.split(", ")}
        assert groups <= {*known, "le"}, expression


def test_panels_have_distinct_ids_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({*cells}) == len(cells)


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in vars(Metrics()).values():
        info = metric.info
        assert info["name"].endswith("_total") == (type(metric).__name__ == "Counter")
        assert info["description"].endswith(".")
        # A label per image would make a time series per image.
        assert {*info["tag_keys"]} <= {"run", "device", "backend", "node", "stage"}


def test_prometheus_reads_the_endpoints_that_ray_lists() -> None:
    (job,) = yaml.safe_load((LAUNCH / "prometheus.yml").read_text())["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
