"""A capacity plan finds the bottleneck among devices, feeders, hosts, driver and reducers."""

from dataclasses import replace
from math import inf

import pytest

from distributed_pose import ConfigError
from distributed_pose.bench.capacity import (
    Capacity,
    DeviceGroup,
    HostCosts,
    capacity,
    published_rate,
    rate_note,
)
from distributed_pose.bench.tables import check_text
from distributed_pose.records.facts import DataFlow
from distributed_pose.records.images import InputSize

COSTS = HostCosts(
    cores=2,
    ceiling_images_per_s=400,
    device_share=0.9,
    cpu_us={"driver": 50, "workers": 4000, "reducers": 0, "ray": 20},
    object_store_bytes=1000,
    gather="poses",
    read="worker",
    batch_size=16,
)
POSES = DataFlow(gather="poses", read="worker", reducers=0)


def planned(
    costs: HostCosts = COSTS,
    flow: DataFlow = POSES,
    *,
    count: int = 8,
    rate: float = 800,
    images: float = 5000,
    cores: int = 10_000,
) -> Capacity:
    """Returns the plan of equal devices on one host."""
    groups = [DeviceGroup(name="card", count=count, images_per_s=rate)]
    return capacity(costs, groups, images, flow, hosts=1, cores=cores)


def test_devices_that_the_hosts_can_feed_keep_their_share() -> None:
    groups = [
        DeviceGroup(name="t4", count=4, images_per_s=250),
        DeviceGroup(name="310", count=8, images_per_s=100),
    ]
    found = capacity(COSTS, groups, 6480 * 10, POSES, hosts=2, cores=8)
    assert found.images_per_s == pytest.approx(0.9 * 1800)
    assert found.bound_by == "devices"
    assert found.hours == pytest.approx(64800 / 1620 / 3600)
    assert found.cores_needed == pytest.approx(1620 / 200)
    assert found.object_store_bytes_per_s == pytest.approx(1620 * 1000)


def test_hosts_with_too_few_cores_decide() -> None:
    found = planned(count=4, rate=250, cores=2)
    assert found.images_per_s == pytest.approx(400)
    assert found.bound_by == "host cores"
    assert found.cores_needed == pytest.approx(4.5)


def test_one_driver_is_the_last_limit() -> None:
    found = planned(count=1000, rate=1000, cores=64_000)
    assert found.images_per_s == pytest.approx(1e6 / 50)
    assert found.bound_by == "driver"


def test_slow_reads_limit_workers_by_the_number_of_their_feeders() -> None:
    found = planned(replace(COSTS, read_ms=200.0, prepare_ms=4.0))
    # 64 feeders per device are the most.
    assert found.images_per_s == pytest.approx(8 * 64 / 0.204)
    assert found.bound_by == "feeders"
    fixed = planned(replace(COSTS, prepare_ms=4.0, feeders=2))
    assert (fixed.bound_by, fixed.images_per_s) == ("feeders", pytest.approx(8 * 2 / 0.004))


@pytest.mark.parametrize(("read_ms", "expected"), [(0.5, 2000), (20.0, 1600)])
def test_a_driver_that_reads_reads_one_by_one_or_overlaps_slow_reads(
    read_ms: float, expected: float
) -> None:
    found = planned(replace(COSTS, read="driver", read_ms=read_ms))
    assert found.images_per_s == pytest.approx(expected)
    assert found.bound_by == "reading by the driver"


def test_reducers_limit_a_flow_of_maps_by_their_number() -> None:
    costs = replace(COSTS, gather="maps", cpu_us={**COSTS.cpu_us, "reducers": 2000})
    found = planned(costs, DataFlow(gather="maps", read="worker", reducers=3))
    assert (found.bound_by, found.images_per_s) == ("reducers", pytest.approx(1500))
    assert "reducers" not in planned(COSTS).limits_images_per_s


def test_simulated_cores_limit_the_stages_that_they_simulate() -> None:
    costs = replace(COSTS, simulated_cores=10, prepare_ms=3.9, group_ms=0.5)
    found = planned(costs)
    assert (found.bound_by, found.images_per_s) == ("simulated cores", pytest.approx(1e4 / 4.4))


def test_a_fast_device_has_as_many_preparing_processes_as_its_host_has_cores() -> None:
    costs = replace(COSTS, prepare_ms=1.0)
    limits = [
        planned(costs, count=1, rate=10_000, cores=cores).limits_images_per_s["feeders"]
        for cores in (1, 2, 100)
    ]
    assert limits == pytest.approx([1500, 3000, 10_500])


def test_unknown_times_limit_nothing() -> None:
    assert set(planned().limits_images_per_s) == {"devices", "host cores", "driver"}
    assert max(planned(replace(COSTS, cpu_us={})).limits_images_per_s.values()) < inf


def test_scoring_is_faster_per_image_where_the_faster_library_scores() -> None:
    few, many = planned(images=5000), planned(images=500_000)
    assert few.scoring_s == pytest.approx(2.9)
    assert many.scoring_s == pytest.approx(14.5)


def test_a_check_is_also_stated_for_a_machine_without_other_work() -> None:
    found = planned(count=4, rate=250, cores=2)
    assert "planned / measured 1.000" in check_text(found, 400, 0.9)
    assert "of it" not in check_text(found, 400, 0.9)
    assert check_text(found, 200, 0.425).endswith("2.000, and 1.000 for 85% of it")
    by_driver = planned(count=1000, rate=1000, cores=64_000)
    assert check_text(by_driver, 20_000, 0.425).endswith("planned / measured 1.000")


@pytest.mark.parametrize(
    ("name", "rate"), [("t4", 252.592), ("ascend310p3", 887.45), ("300", 300.0), ("0.5", 0.5)]
)
def test_a_device_is_a_published_card_at_its_best_batch_or_a_rate(name: str, rate: float) -> None:
    assert published_rate(name) == rate


@pytest.mark.parametrize("name", ["h100", "0", "1e9", "nan", "-4"])
def test_any_other_device_is_an_error_that_lists_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no device {name}.*ascend310p3"):
        published_rate(name)


def test_published_rates_and_no_others_are_scaled_by_the_number_of_input_pixels() -> None:
    half = InputSize(184, 640)
    assert published_rate("t4", half) == pytest.approx(2 * 252.592)
    assert published_rate("300", half) == 300
    groups = [DeviceGroup(name=name, count=1, images_per_s=1) for name in ("t4", "300")]
    assert rate_note(groups, half) == (
        "t4: rates published for inputs of 368x640 are divided by 0.5, the ratio of the pixels of "
        "184x640, which is an estimate."
    )
    assert rate_note(groups, InputSize(368, 640)) == rate_note(groups[1:], half) == ""
