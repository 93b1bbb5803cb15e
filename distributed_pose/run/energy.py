"""Relates the images of a session to the energy that its devices took."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.facts import WorkerReadings


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyUse:
    """Energy of a device, with the images of all its workers.

    Attributes:
        energy_j: energy in joules; None if unknown.
        images: number of images that were inferred while the energy was measured.
    """

    energy_j: float | None
    images: int

    @property
    def images_per_joule(self) -> float | None:
        """Images per joule; None if unknown."""
        return self.images / self.energy_j if self.energy_j else None


def energy_by_worker(
    devices: Iterable[DeviceReady], readings: Mapping[str, WorkerReadings]
) -> dict[str, EnergyUse]:
    """Returns the energy of each worker's device, by the name of the worker's device.

    Workers that share a device have the energy of the device and the images of all of them.

    Args:
        devices: devices of the session.
        readings: readings of the workers, by the name of the device.
    """
    workers: dict[tuple[str, str, str], list[str]] = {}
    for device in devices:
        workers.setdefault(_place(device), []).append(device.plan.name)
    found: dict[str, EnergyUse] = {}
    for names in workers.values():
        known = [r.device for name in names if (r := readings.get(name)) and r.device]
        energies = [one.energy_j for one in known if one.energy_j is not None]
        is_known = len(energies) == len(names)
        use = EnergyUse(
            energy_j=max(energies) if is_known else None, images=sum(one.images for one in known)
        )
        found |= dict.fromkeys(names, use)
    return found


def total(devices: Iterable[DeviceReady], by_worker: Mapping[str, EnergyUse]) -> EnergyUse:
    """Returns the energy of all devices; unknown if that of one of them is.

    Args:
        devices: devices of the session.
        by_worker: energy of each worker's device.
    """
    places = {_place(device): by_worker[device.plan.name] for device in devices}
    energies = [use.energy_j for use in places.values()]
    known = [energy_j for energy_j in energies if energy_j is not None]
    return EnergyUse(
        energy_j=sum(known) if known and len(known) == len(energies) else None,
        images=sum(use.images for use in places.values()),
    )


def _place(device: DeviceReady) -> tuple[str, str, str]:
    """Returns what two workers of the same device have in common."""
    plan: DevicePlan = device.plan
    return device.host or plan.node, plan.kind, plan.device_id or plan.name
