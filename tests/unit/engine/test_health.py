"""Failures exclude a device, and the durations of calls determine its deadline."""

from distributed_pose.engine.health import Health, collect_faults, none_left
from distributed_pose.records.facts import Faults


def faulty(*reasons: str) -> Health:
    health = Health(floor_s=1.0)
    for reason in reasons:
        health.fault(reason)
    return health


def test_four_failures_in_a_row_exclude_a_device() -> None:
    health = faulty("a", "b", "c")
    assert not health.is_excluded
    health.fault("d")
    assert health.is_excluded
    assert health.faults == ["a", "b", "c", "d"]


def test_a_success_resets_the_count_and_keeps_all_reasons() -> None:
    health = faulty("a", "b", "c")
    health.success(0.1)
    for reason in "def":
        health.fault(reason)
    assert not health.is_excluded
    assert health.faults == [*"abcdef"]


def test_a_failure_without_hope_takes_a_device_out_at_once() -> None:
    health = Health(floor_s=1.0)
    health.fault("its node left", final=True)
    assert health.is_excluded


def test_an_excluded_device_stays_excluded() -> None:
    gone, worn = Health(floor_s=1.0), faulty(*"abcd")
    gone.fault("its node left", final=True)
    gone.fault("a late answer was wrong")
    worn.success(0.1)
    worn.fault("e")
    assert (gone.is_excluded, worn.is_excluded) == (True, True)


def test_a_call_may_take_the_floor_and_ten_times_the_median() -> None:
    health = Health(floor_s=3.0)
    assert health.deadline_s == 3.0
    health.expect(0.5)
    assert health.deadline_s == 8.0
    health.success(0.25)
    health.success(2.0)
    assert health.deadline_s == 8.0


def test_failures_do_not_change_the_deadline_of_a_call() -> None:
    health = Health(floor_s=3.0)
    health.success(0.5)
    health.fault("a")
    assert health.deadline_s == 8.0


def test_calls_that_waited_for_one_that_hangs_do_not_prolong_the_next_hang() -> None:
    health = Health(floor_s=1.0)
    for _ in range(5):
        health.success(0.1)
    for _ in range(4):
        health.success(10.0)
    assert health.deadline_s == 2.0


def test_the_median_is_of_the_last_64() -> None:
    health = Health(floor_s=0.0)
    for duration_s in (*[0.5] * 64, *[7.0] * 32):
        health.success(duration_s)
    assert health.deadline_s == 70.0
    for _ in range(33):
        health.success(0.5)
    assert health.deadline_s == 5.0


def test_faults_are_collected_of_those_that_had_some() -> None:
    actors = {"cpu:0": faulty(), "cpu:1": faulty("x", "y"), "reducer:0": faulty(*"abcd")}
    assert collect_faults(actors) == Faults(
        reasons={"cpu:1": ("x", "y"), "reducer:0": ("a", "b", "c", "d")},
        taken_out=("reducer:0",),
    )
    assert collect_faults({}) == Faults()


def test_an_error_for_lack_of_devices_gives_the_last_reason_of_each() -> None:
    error = none_left("device", {"cpu:0": faulty("old", "new"), "cpu:1": faulty("other")})
    assert error.message == "no device is left: cpu:0: new; cpu:1: other"
    assert error.exit_code == 4
