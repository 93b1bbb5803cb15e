"""Readings of a worker cover all of its processes, and those of a dead one are those it sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose.engine.monitor import Monitor
from distributed_pose.engine.readings import ReadingsByProcess, joined_readings
from distributed_pose.records.devices import DevicePlan
from distributed_pose.records.facts import DeviceReadings, HostLoad, WorkerReadings

FIRST = DeviceReadings(
    samples=3,
    images=20,
    driver="1",
    memory_used_bytes=900,
    utilisation=0.8,
    power_w=10.0,
    energy_j=50.0,
    energy_source="counter",
)
SECOND = DeviceReadings(
    samples=9,
    images=60,
    driver="1",
    memory_used_bytes=300,
    utilisation=0.4,
    power_w=20.0,
    energy_j=200.0,
    energy_source="counter",
)
ONE_SAMPLE = DeviceReadings(samples=1, driver="1", memory_used_bytes=100)


def readings(device: DeviceReadings | None, load: float = 0.0) -> WorkerReadings:
    return WorkerReadings(device=device, before=HostLoad(load=load), after=HostLoad(load=load + 1))


def test_energy_and_images_of_processes_add_up_and_means_are_by_samples() -> None:
    found = joined_readings([FIRST, SECOND])
    assert (found.samples, found.images, found.energy_j) == (12, 80, 250.0)
    assert (found.memory_used_bytes, found.energy_source) == (900, "counter")
    assert found.utilisation == pytest.approx(0.5)
    assert found.power_w == pytest.approx(17.5)
    assert found.clock_mhz is None


def test_a_process_with_one_reading_makes_no_energy_unknown() -> None:
    assert joined_readings([FIRST, ONE_SAMPLE]).energy_j == 50.0
    assert joined_readings([ONE_SAMPLE, ONE_SAMPLE]).energy_j is None


def test_energy_is_unknown_if_that_of_a_process_is() -> None:
    unknown = DeviceReadings(samples=5, images=10)
    found = joined_readings([FIRST, unknown])
    assert (found.energy_j, found.energy_source, found.images) == (None, "", 30)


@given(st.lists(st.tuples(st.integers(2, 9), st.floats(0, 1e6)), min_size=2, max_size=5))
def test_the_order_in_which_processes_are_joined_does_not_matter(
    processes: list[tuple[int, float]],
) -> None:
    parts = [
        DeviceReadings(samples=samples, images=samples, power_w=energy_j, energy_j=energy_j)
        for samples, energy_j in processes
    ]
    at_once = joined_readings(parts)
    one_by_one = joined_readings([joined_readings(parts[:-1]), parts[-1]])
    assert at_once.energy_j == pytest.approx(one_by_one.energy_j)
    assert at_once.power_w == pytest.approx(one_by_one.power_w)
    assert (at_once.samples, at_once.images) == (one_by_one.samples, one_by_one.images)


def test_later_readings_of_a_process_replace_its_earlier_ones() -> None:
    both = ReadingsByProcess()
    assert both.total is None
    both.update(readings(ONE_SAMPLE))
    both.update(readings(FIRST))
    both.update(None)
    assert both.total == readings(FIRST)


def test_a_new_process_adds_to_what_the_dead_one_sent() -> None:
    both = ReadingsByProcess()
    both.update(readings(FIRST, load=1.0))
    both.end_process()
    assert both.total == readings(FIRST, load=1.0)
    both.update(readings(ONE_SAMPLE, load=5.0))
    both.update(readings(SECOND, load=5.0))
    total = both.total
    assert total is not None
    assert total.device == joined_readings([FIRST, SECOND])
    assert (total.before, total.after) == (HostLoad(load=1.0), HostLoad(load=6.0))
    # It died before it sent anything.
    both.end_process()
    both.end_process()
    assert both.total == total


def test_a_worker_without_a_meter_keeps_the_state_of_its_machine() -> None:
    both = ReadingsByProcess()
    both.update(readings(None))
    both.end_process()
    both.update(readings(None))
    assert both.total == readings(None)


def test_readings_are_sent_with_the_first_report_and_then_now_and_then() -> None:
    plan = DevicePlan(name="cpu:0", kind="cpu", node="", node_id="", cpus=1.0)
    monitor = Monitor(plan, interval_s=3600.0)
    monitor.begin()
    assert monitor.news() is not None
    assert monitor.news() is None
    assert monitor.readings().device is None
