import pytest

from distributed_pose.cluster.devices import Node, plan_devices

NODES = [Node("10.0.0.1", "a", 4), Node("10.0.0.2", "b", 1)]


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
