"""Feeders of a worker, and the flow of images and maps, follow from the rates of devices."""

from dataclasses import replace
from math import ceil
from socket import gethostname
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose.config.loading import parse_config
from distributed_pose.engine.feeding import MAX_BATCHES, plan_feeding
from distributed_pose.engine.flow import choose_flow
from distributed_pose.locations import Location
from distributed_pose.records.devices import DevicePlan, DeviceReady, ImagesToRead
from distributed_pose.records.facts import DataFlow

RATES = st.floats(0.01, 2e4)
PREPARE_S = st.floats(1e-4, 0.1)


@given(RATES, PREPARE_S, st.integers(1, 4))
def test_the_feeders_prepare_as_many_images_as_the_device_infers(
    rate: float, prepare_s: float, slots: int
) -> None:
    feeding = plan_feeding(rate, prepare_s, slots, max_processes=16)
    assert feeding.feeders >= min(64, ceil(rate * prepare_s))
    assert slots + 1 <= feeding.batches <= MAX_BATCHES
    assert feeding.processes <= feeding.feeders
    is_fed = feeding.feeders < 64 and feeding.processes < 16
    assert not is_fed or feeding.max_images_per_s(prepare_s) >= min(rate, 1500 * feeding.feeders)


@pytest.mark.parametrize(
    ("rate", "feeders", "processes"), [(10.0, 1, 0), (252.0, 2, 0), (887.0, 6, 0), (5000.0, 30, 4)]
)
def test_fast_devices_have_more_feeders_and_the_fastest_have_processes(
    rate: float, feeders: int, processes: int
) -> None:
    feeding = plan_feeding(rate, 0.004, 2, max_processes=16)
    assert (feeding.feeders, feeding.processes) == (feeders, processes)
    assert plan_feeding(rate, 0.004, 2).processes == 0


@given(RATES, PREPARE_S, st.integers(1, 256))
def test_a_fixed_number_of_feeders_is_kept(rate: float, prepare_s: float, fixed: int) -> None:
    assert plan_feeding(rate, prepare_s, 1, fixed, max_processes=16).feeders == fixed


def test_a_slow_device_prepares_one_batch_beside_those_on_the_device() -> None:
    assert plan_feeding(10.0, 0.004, 1).batches == 2


def test_reads_with_latency_have_more_feeders() -> None:
    assert plan_feeding(887.0, 0.024, 2).feeders == 32


def devices(count: int, rate: float, host: str = "", *, reads: bool = True) -> list[DeviceReady]:
    plan = DevicePlan(name="cpu:0", kind="cpu", node="", node_id="", cpus=1.0)
    compute_ns = round(8e9 / rate)
    ready = DeviceReady(
        plan=plan,
        backend="simulated",
        precision="f32",
        description="",
        batch_size=8,
        warmup_ns=0,
        host=host or gethostname(),
        compute_ns=compute_ns,
        reads_images=reads,
    )
    return [replace(ready) for _ in range(count)]


LOCAL = ImagesToRead(Location("/images"), is_required=False)
REMOTE = ImagesToRead(Location("s3://bucket/images"), is_required=False)


def flow(ready: list[DeviceReady], images: ImagesToRead | None, **values: Any) -> DataFlow:
    return choose_flow(parse_config(values), ready, images, cores=40)


def test_slow_devices_are_fed_by_the_driver_and_their_maps_are_gathered() -> None:
    assert flow(devices(4, 20.0), LOCAL) == DataFlow(gather="maps", read="driver", reducers=1)


def test_fast_devices_read_and_group_themselves() -> None:
    assert flow(devices(8, 887.0), LOCAL) == DataFlow(gather="poses", read="worker", reducers=0)


@pytest.mark.parametrize(
    ("ready", "images", "read"),
    [
        (devices(1, 887.0, host="elsewhere"), LOCAL, "driver"),
        (devices(1, 887.0, host="elsewhere"), REMOTE, "worker"),
        (devices(1, 887.0, reads=False), LOCAL, "driver"),
        (devices(1, 887.0), None, "driver"),
    ],
)
def test_workers_read_only_images_that_they_certainly_see(
    ready: list[DeviceReady], images: ImagesToRead | None, read: str
) -> None:
    assert flow(ready, images).read == read


def test_gathered_maps_get_as_many_reducers_as_the_rates_ask_for() -> None:
    assert flow(devices(8, 887.0), LOCAL, gather="maps").reducers == 11
    assert flow(devices(80, 887.0), LOCAL, gather="maps").reducers == 40


def test_configured_values_are_kept() -> None:
    fixed = {"gather": "maps", "reducers": 3, "data": {"read": "driver"}}
    assert flow(devices(8, 887.0), LOCAL, **fixed) == DataFlow(
        gather="maps", read="driver", reducers=3
    )
