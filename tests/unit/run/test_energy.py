"""Images per joule count each device once, and are unknown where one of its parts is."""

from dataclasses import replace

from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.facts import DeviceReadings, HostLoad, WorkerReadings
from distributed_pose.run.energy import energy_by_worker, total


def device(name: str, device_id: str, host: str = "a") -> DeviceReady:
    plan = DevicePlan(name=name, kind="cuda", node="", node_id="", cpus=1.0, device_id=device_id)
    return DeviceReady(
        plan=plan,
        backend="oracle",
        precision="f32",
        description="",
        batch_size=1,
        warmup_ns=0,
        host=host,
    )


def readings(images: int, energy_j: float | None) -> WorkerReadings:
    found = DeviceReadings(samples=2, images=images, energy_j=energy_j)
    return WorkerReadings(device=found, before=HostLoad(), after=HostLoad())


def test_workers_that_share_a_device_share_its_energy_and_their_images() -> None:
    devices = [device("cuda:0", "0"), device("cuda:0.1", "0"), device("cuda:1", "0", host="b")]
    known = {
        "cuda:0": readings(10, 99.0),
        "cuda:0.1": readings(30, 100.0),
        "cuda:1": readings(10, 100.0),
    }
    found = energy_by_worker(devices, known)
    assert [found[d.plan.name].images_per_joule for d in devices] == [0.4, 0.4, 0.1]
    whole = total(devices, found)
    assert (whole.energy_j, whole.images, whole.images_per_joule) == (200.0, 50, 0.25)


def test_the_energy_of_a_run_is_unknown_if_that_of_one_device_is() -> None:
    devices = [device("cuda:0", "0"), device("cuda:1", "1")]
    for other in (readings(10, None), replace(readings(10, None), device=None)):
        found = energy_by_worker(devices, {"cuda:0": readings(10, 50.0), "cuda:1": other})
        assert found["cuda:0"].images_per_joule == 0.2
        assert found["cuda:1"].images_per_joule is None
        assert total(devices, found).images_per_joule is None


def test_without_devices_there_is_no_energy() -> None:
    assert total([], {}).images_per_joule is None
