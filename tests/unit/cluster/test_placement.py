"""A process belongs to the worker of the device that Ray gave it."""

from dataclasses import dataclass
from time import sleep
from typing import cast

import pytest

from distributed_pose import SetupError
from distributed_pose.cluster.actors import DeviceAssignment
from distributed_pose.cluster.calls import Actor
from distributed_pose.cluster.placement import match_device
from distributed_pose.devices.planning import Accelerator, Node
from distributed_pose.engine.health import Health
from distributed_pose.files.package_identity import package_identity
from distributed_pose.records.devices import DevicePlan, WorkerSpec

NODE = Node("10.0.0.1", "a", 2, accelerators=tuple(Accelerator("npu", str(n)) for n in range(2)))


@dataclass(frozen=True)
class Process:
    """As much of a process as matters before it is asked anything."""

    device_id: str


def worker(number: int) -> Actor:
    plan = DevicePlan(
        name=f"npu:{number}",
        kind="npu",
        node=NODE.address,
        node_id=NODE.node_id,
        cpus=1,
        device_id=str(number),
    )
    actor = Actor(plan.name, lambda: (None, None), Health(1.0), plan=plan)
    actor.handle = actor.starting = Process("unknown")
    return actor


def find_place(actor: Actor, workers: list[Actor], device_id: str) -> Actor | None:
    """Does what the driver does with the answer of a process, but for starting others."""
    place = DeviceAssignment(device_id, (), package_identity())
    owner = match_device(place, actor, workers, [NODE])
    if owner:
        if owner is not actor:
            actor.swap_process(owner)
        owner.assign(place)
    return owner


@pytest.mark.parametrize("given", [("0", "1"), ("1", "0"), ("1", "2"), ("2", "1"), ("6", "7")])
def test_where_all_of_a_nodes_devices_are_wanted_each_gets_one_by_whatever_number(
    given: tuple[str, str],
) -> None:
    workers = [worker(0), worker(1)]
    for device_id in given:
        waiting = next(actor for actor in workers if actor.starting)
        assert find_place(waiting, workers, device_id)
    assert sorted(actor.plan.device_id for actor in workers if actor.plan) == sorted(given)
    assert not any(actor.starting for actor in workers)


@pytest.mark.parametrize("given", [("0", "1"), ("2", "1"), ("7", "6")])
def test_a_restarted_process_is_on_the_same_device(given: tuple[str, str]) -> None:
    workers = [worker(0), worker(1)]
    for device_id in given:
        find_place(next(actor for actor in workers if actor.starting), workers, device_id)
    killed = workers[0]
    assert killed.plan
    before = killed.plan.device_id
    killed.place, killed.starting = None, Process("unknown")
    assert find_place(killed, workers, before) is killed
    assert killed.plan.device_id == before


@pytest.mark.parametrize("given", ["0011", "0110", "1100", "1010"])
def test_workers_that_share_devices_are_spread_over_them(given: str) -> None:
    workers = [worker(0), worker(1), worker(0), worker(1)]
    for device_id in given:
        waiting = next(actor for actor in workers if actor.starting)
        assert find_place(waiting, workers, device_id)
    assert sorted(actor.plan.device_id for actor in workers if actor.plan) == ["0", "0", "1", "1"]
    assert not any(actor.starting for actor in workers)


def test_a_process_on_a_device_that_is_not_in_the_run_has_no_worker() -> None:
    (wanted,) = workers = [worker(1)]
    assert find_place(wanted, workers, "0") is None
    assert find_place(wanted, workers, "1") is wanted


def test_a_part_of_devices_that_are_counted_otherwise_is_an_error() -> None:
    (wanted,) = workers = [worker(1)]
    with pytest.raises(SetupError, match=r"otherwise, for example 5.*devices=npu:\*"):
        find_place(wanted, workers, "5")


class Launched:
    """As much of a process as matters until it is ready."""

    class start:  # noqa: N801 - a method of an actor
        @staticmethod
        def remote(*_: object) -> object:
            return object()


def test_a_process_may_take_ten_times_as_long_to_be_ready_as_the_first_one_did() -> None:
    plan = DevicePlan(
        name="cpu:0", kind="cpu", node=NODE.address, node_id=NODE.node_id, cpus=1, device_id=""
    )
    actor = Actor(plan.name, lambda: (Launched(), object()), Health(1.0), plan=plan)
    actor.launch()
    sleep(0.2)
    actor.assign(DeviceAssignment("", (), package_identity()))
    actor.begin(cast("WorkerSpec", None), b"")
    actor.started(None)
    assert actor.start_deadline_s >= 1.0 + 10 * 0.2
