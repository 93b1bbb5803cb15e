"""The number and size of the calls to a device follow from its slots and its rate."""

from dataclasses import replace

import pytest

from distributed_pose.engine.dispatch import IN_FLIGHT, batches_per_call, calls_in_flight
from distributed_pose.records.devices import DevicePlan, DeviceReady

PLAN = DevicePlan(name="cpu:0", kind="cpu", node="", node_id="", cpus=1.0)
DEVICE = DeviceReady(
    plan=PLAN, backend="oracle", precision="f32", description="CPU", batch_size=1, warmup_ns=0
)


def test_a_device_gets_a_call_for_each_batch_that_its_worker_has_at_once() -> None:
    assert calls_in_flight(replace(DEVICE, batches_in_flight=7), batches=1) == 7


def test_a_call_of_several_batches_fills_the_worker_by_itself() -> None:
    assert calls_in_flight(replace(DEVICE, batches_in_flight=7), batches=16) == IN_FLIGHT


@pytest.mark.parametrize(("batch_ns", "expected"), [(0, 16), (50e6, 16), (500e6, 4), (9e9, 1)])
def test_calls_are_about_two_seconds_of_work(batch_ns: float, expected: int) -> None:
    assert batches_per_call(replace(DEVICE, batch_ns=int(batch_ns))) == expected
