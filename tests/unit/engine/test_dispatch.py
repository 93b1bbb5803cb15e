"""The number and size of the calls to a device follow from its slots and its rate."""

import pytest

from distributed_pose.config.loading import parse_config
from distributed_pose.engine.dispatch import (
    IN_FLIGHT,
    MAX_IN_FLIGHT,
    batches_per_call,
    calls_in_flight,
)
from distributed_pose.records import DevicePlan, DeviceReady


@pytest.mark.parametrize(("slots", "batches", "expected"), [(1, 1, 2), (2, 1, 3), (2, 16, 2)])
def test_a_device_gets_a_call_for_each_of_its_slots_and_one_to_prepare(
    slots: int, batches: int, expected: int
) -> None:
    assert calls_in_flight(slots, batches) == expected
    assert IN_FLIGHT <= expected <= MAX_IN_FLIGHT


def test_a_worker_has_a_thread_for_each_call_that_a_simulated_device_is_given() -> None:
    most = parse_config({"simulated": {"slots": 4}}).simulated.simulation
    assert calls_in_flight(most.slots, 1) == MAX_IN_FLIGHT


@pytest.mark.parametrize(("batch_ns", "expected"), [(0, 16), (50e6, 16), (500e6, 4), (9e9, 1)])
def test_calls_are_about_two_seconds_of_work(batch_ns: float, expected: int) -> None:
    plan = DevicePlan(name="cpu:0", kind="cpu", node="", node_id="", cpus=1.0)
    device = DeviceReady(
        plan=plan,
        backend="oracle",
        precision="f32",
        description="CPU",
        batch_size=1,
        warmup_ns=0,
        batch_ns=int(batch_ns),
    )
    assert batches_per_call(device) == expected
