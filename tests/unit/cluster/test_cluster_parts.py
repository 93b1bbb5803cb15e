"""The devices of a run are planned across nodes, numbered, and given shares of the CPUs."""

import pytest

from distributed_pose import SetupError
from distributed_pose.devices.planning import Accelerator, Node, plan_devices

NODES = [Node("10.0.0.1", "a", 4), Node("10.0.0.2", "b", 1)]


def npu(device_id: str, model: str = "310P3") -> Accelerator:
    return Accelerator("npu", device_id, model)


def gpu(device_id: str, model: str = "T4") -> Accelerator:
    return Accelerator("cuda", device_id, model)


MIXED = [
    Node("10.0.0.1", "a", 8, accelerators=(npu("0"), npu("1"), gpu("0"))),
    Node("10.0.0.2", "b", 0, accelerators=(gpu("4"), gpu("5"))),
    Node("10.0.0.3", "c", 2),
]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (("auto",), [("cpu:0", "a", 4), ("cpu:1", "b", 1)]),
        (("cpu",), [("cpu:0", "a", 4)]),
        (
            ("cpu:4",),
            [("cpu:0", "a", 2), ("cpu:1", "b", 0.5), ("cpu:2", "a", 2), ("cpu:3", "b", 0.5)],
        ),
        (("cpu", "cpu:2"), [("cpu:0", "a", 2), ("cpu:1", "b", 1), ("cpu:2", "a", 2)]),
    ],
)
def test_workers_are_dealt_over_the_nodes_and_share_their_cpus(
    requests: tuple[str, ...], expected: list[tuple[str, str, float]]
) -> None:
    plans = plan_devices(requests, NODES)
    assert [(plan.name, plan.node_id, plan.cpus) for plan in plans] == expected
    assert all(plan.threads == max(1, int(plan.cpus)) for plan in plans)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (("npu:*",), [("npu:0", "a", "0"), ("npu:1", "a", "1")]),
        (("cuda:*",), [("cuda:0", "a", "0"), ("cuda:1", "b", "4"), ("cuda:2", "b", "5")]),
        (("cuda:2",), [("cuda:2", "b", "5")]),
        (("cuda:1", "npu:1"), [("npu:1", "a", "1"), ("cuda:1", "b", "4")]),
        (("npu:0", "npu:*", "npu:0"), [("npu:0", "a", "0"), ("npu:1", "a", "1")]),
        (("npu:0", "cpu:2"), [("npu:0", "a", "0"), ("cpu:0", "a", ""), ("cpu:1", "c", "")]),
    ],
)
def test_accelerators_are_numbered_over_the_nodes_and_chosen_by_number(
    requests: tuple[str, ...], expected: list[tuple[str, str, str]]
) -> None:
    plans = plan_devices(requests, MIXED)
    assert [(plan.name, plan.node_id, plan.device_id) for plan in plans] == expected


def test_workers_of_one_card_share_it_and_are_chosen_together() -> None:
    plans = plan_devices(("cuda:1", "npu:0"), MIXED, workers={"cuda": 2})
    found = [(plan.name, plan.number, plan.device_id, plan.share) for plan in plans]
    assert found == [("npu:0", 0, "0", 1), ("cuda:1", 1, "4", 0.5), ("cuda:1.1", 1, "4", 0.5)]
    several = plan_devices(("auto",), MIXED, ("cuda",), workers={"cuda": 3})
    assert len({plan.name for plan in several}) == 9
    assert sum(plan.share for plan in several) == pytest.approx(3)


def test_a_plan_has_the_kind_the_model_and_the_address() -> None:
    first, second = plan_devices(("npu:0", "cuda:1"), MIXED)
    assert (first.kind, first.model, first.node) == ("npu", "310P3", "10.0.0.1")
    assert (second.kind, second.model, second.node) == ("cuda", "T4", "10.0.0.2")


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("npu", "cuda"), ["npu:0", "npu:1", "cuda:0", "cuda:1", "cuda:2"]),
        (("cuda",), ["cuda:0", "cuda:1", "cuda:2"]),
        ((), ["cpu:0", "cpu:1"]),
    ],
)
def test_auto_is_all_usable_accelerators_or_a_cpu_worker_on_every_node_with_a_cpu(
    kinds: tuple[str, ...], expected: list[str]
) -> None:
    plans = plan_devices(("auto",), MIXED, kinds)
    assert [plan.name for plan in plans] == expected
    assert [plan.name for plan in plan_devices(("auto",), NODES, kinds)] == ["cpu:0", "cpu:1"]


@pytest.mark.parametrize(
    ("cpus", "requests", "expected"),
    [
        (8, ("npu:*",), [1, 1]),
        (8, ("npu:*", "cpu:2"), [1, 1, 3, 3]),
        (4, ("npu:*", "cpu:2"), [1, 1, 1, 1]),
        (2, ("npu:*", "cpu:2"), [0.5, 0.5, 0.5, 0.5]),
        (0, ("npu:*",), [0, 0]),
        (3, ("npu:0", "cpu"), [1, 2]),
    ],
)
def test_a_cpu_feeds_each_accelerator_and_cpu_workers_share_the_rest(
    cpus: int, requests: tuple[str, ...], expected: list[float]
) -> None:
    node = Node("", "", cpus, accelerators=(npu("0"), npu("1")))
    shares = [plan.cpus for plan in plan_devices(requests, [node])]
    assert shares == expected
    assert sum(shares) <= cpus
    # Ray takes fractions only below one.
    assert all(share == int(share) or share < 1 for share in shares)


def test_a_cpu_worker_takes_as_many_cpus_as_are_configured() -> None:
    node = Node("", "", 8, accelerators=(npu("0"),))
    plans = plan_devices(("npu:*", "cpu:2"), [node], cpus=3)
    assert [plan.cpus for plan in plans] == [1, 3, 3]
    with pytest.raises(SetupError, match="has 8 CPUs, and 3 CPU workers of 3 each need 9"):
        plan_devices(("cpu:3",), [node], cpus=3)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (("npu:2",), "no device npu:2: found npu:0, npu:1, cuda:0, cuda:1, cuda:2"),
        (("cuda:9", "npu:0"), "no device cuda:9"),
    ],
)
def test_a_missing_device_is_an_error_that_lists_the_available_ones(
    requests: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        plan_devices(requests, MIXED)


def test_no_accelerators_and_no_cpus_are_errors_of_their_own() -> None:
    with pytest.raises(SetupError, match=r"no device npu:\*: found only CPUs"):
        plan_devices(("npu:*",), NODES)
    with pytest.raises(SetupError, match="no node has a CPU"):
        plan_devices(("cpu",), [MIXED[1]])
