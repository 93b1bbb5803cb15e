"""Sums up the readings of a worker whose process was started again during a session."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from distributed_pose.records.facts import DeviceReadings, WorkerReadings

_T = TypeVar("_T", int, float)


class ReadingsByProcess:
    """The readings of all processes that a worker has had, of which only the last can be asked."""

    def __init__(self) -> None:
        self._ended: WorkerReadings | None = None
        self._latest: WorkerReadings | None = None

    def update(self, readings: WorkerReadings | None) -> None:
        """Records what the present process has observed since its start.

        Args:
            readings: readings of the process; None if it sent none.
        """
        self._latest = readings or self._latest

    def end_process(self) -> None:
        """Keeps what the present process has sent, since the next readings are of another one."""
        self._ended, self._latest = self.total, None

    @property
    def total(self) -> WorkerReadings | None:
        """Readings of all processes together; None if there are none."""
        if not (self._ended and self._latest):
            return self._ended or self._latest
        devices = [one.device for one in (self._ended, self._latest) if one.device]
        return replace(
            self._latest,
            device=joined_readings(devices) if devices else None,
            before=self._ended.before,
        )


def joined_readings(parts: Sequence[DeviceReadings]) -> DeviceReadings:
    """Returns the readings of a device by consecutive processes as those of one process.

    Energy and images are sums; the time in which no process metered the device is not covered.

    Args:
        parts: readings by each process, in the order of time.
    """
    # A process with one reading has measured no energy, and counted no images.
    metered = [one for one in parts if one.samples > 1]
    energies = _known(one.energy_j for one in metered)
    is_complete = len(energies) == len(metered) > 0
    return DeviceReadings(
        samples=sum(one.samples for one in parts),
        images=sum(one.images for one in parts),
        driver=parts[-1].driver,
        firmware=parts[-1].firmware,
        memory_used_bytes=max(_known(one.memory_used_bytes for one in parts), default=None),
        utilisation=_mean([(one.utilisation, one.samples) for one in parts]),
        clock_mhz=_mean([(one.clock_mhz, one.samples) for one in parts]),
        power_w=_mean([(one.power_w, one.samples) for one in parts]),
        energy_j=sum(energies) if is_complete else None,
        energy_source="+".join(sorted({one.energy_source for one in metered}))
        if is_complete
        else "",
    )


def _known(values: Iterable[_T | None]) -> list[_T]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[tuple[float | None, int]]) -> float | None:
    """Returns the mean of values weighted by numbers of samples; None if no value is known."""
    known = [(value, samples) for value, samples in values if value is not None]
    total = sum(samples for _, samples in known)
    return sum(value * samples for value, samples in known) / total if total else None
