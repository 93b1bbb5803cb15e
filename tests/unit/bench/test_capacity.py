"""A capacity plan finds the bottleneck among devices, hosts and driver."""

import pytest

from distributed_pose import ConfigError
from distributed_pose.bench.capacity import DeviceGroup, HostCosts, capacity, published_rate

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


def test_devices_that_the_hosts_can_feed_keep_their_share() -> None:
    groups = [
        DeviceGroup(name="t4", count=4, images_per_s=250),
        DeviceGroup(name="310", count=8, images_per_s=100),
    ]
    found = capacity(COSTS, groups, 6480 * 10, hosts=2, cores=8)
    assert found.images_per_s == pytest.approx(0.9 * 1800)
    assert found.bound_by == "devices"
    assert found.hours == pytest.approx(64800 / 1620 / 3600)
    assert found.cores_needed == pytest.approx(1620 / 200)
    assert found.object_store_bytes_per_s == pytest.approx(1620 * 1000)


def test_hosts_with_too_few_cores_decide() -> None:
    found = capacity(
        COSTS, [DeviceGroup(name="t4", count=4, images_per_s=250)], 5000, hosts=1, cores=2
    )
    assert found.images_per_s == pytest.approx(400)
    assert found.bound_by == "host CPUs"
    assert found.cores_needed == pytest.approx(4.5)


def test_one_driver_is_the_last_limit() -> None:
    found = capacity(
        COSTS, [DeviceGroup(name="card", count=1000, images_per_s=1000)], 5e6, hosts=500, cores=64
    )
    assert found.images_per_s == pytest.approx(1e6 / 50)
    assert found.bound_by == "the driver's process"


@pytest.mark.parametrize(
    ("name", "rate"), [("t4", 252.592), ("ascend310p3", 887.45), ("300", 300.0), ("0.5", 0.5)]
)
def test_a_device_is_a_published_card_at_its_best_batch_or_a_rate(name: str, rate: float) -> None:
    assert published_rate(name) == rate


@pytest.mark.parametrize("name", ["h100", "0", "1e9", "nan", "-4"])
def test_any_other_device_is_an_error_that_lists_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no device {name}.*ascend310p3"):
        published_rate(name)
