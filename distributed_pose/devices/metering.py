"""Samples the power, memory and utilisation of a device while it works."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from threading import Event, Thread
from time import monotonic
from typing import Protocol

from distributed_pose.errors import first_line
from distributed_pose.records.facts import DeviceReadings

_LOG = logging.getLogger(__name__)

# The last reading of a device is waited for this long.
_LAST_TIMEOUT_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The state of a device at one moment; what its driver does not report is None.

    Attributes:
        memory_used_bytes: bytes of device memory in use.
        utilisation: share of the last period in which the device executed anything.
        clock_mhz: clock of the device's processors in MHz.
        power_w: power in watts.
        energy_j: joules that the device has taken since some moment before the first reading.
    """

    memory_used_bytes: int | None = None
    utilisation: float | None = None
    clock_mhz: float | None = None
    power_w: float | None = None
    energy_j: float | None = None


class Meter(Protocol):
    """Asks the driver about one device.

    Attributes:
        interval_s: seconds between two readings.
        driver: version of the driver; empty where unknown.
        firmware: version of the device's firmware; empty where unknown.
    """

    interval_s: float
    driver: str
    firmware: str

    def read(self) -> Reading:
        """Returns the present state of the device."""

    def close(self) -> None:
        """Releases the driver."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A reading, with its time.

    Attributes:
        at_s: time of the reading in seconds of the monotonic clock.
        images: number of images that were inferred before the reading.
        reading: state of the device.
    """

    at_s: float
    images: int
    reading: Reading


class Sampler:
    """Reads a meter in a thread of its own until it is stopped.

    The meter is opened and closed in that thread too, since drivers can take a second to answer. A
    meter that fails ends the readings, and nothing else.

    Args:
        open_meter: function that returns the meter, or None where the device has none.
        count_images: function that returns the number of images that were inferred so far.
    """

    def __init__(
        self, open_meter: Callable[[], Meter | None], count_images: Callable[[], int]
    ) -> None:
        self._open = open_meter
        self._count_images = count_images
        self._samples: list[Sample] = []
        self._versions = ("", "")
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> DeviceReadings | None:
        """Takes the last reading, and returns the readings summed up; None if there are none."""
        self._stopped.set()
        self._thread.join(_LAST_TIMEOUT_S)
        return self.so_far()

    def so_far(self) -> DeviceReadings | None:
        """Returns the present readings summed up; None if there are none."""
        # The thread may append a sample at any time.
        return sum_up([*self._samples], *self._versions)

    def _run(self) -> None:
        # Other packages register meters, too, which can raise any exception.
        try:
            meter = self._open()
            if meter is None:
                return
            self._versions = meter.driver, meter.firmware
            try:
                self._sample(meter)
            finally:
                meter.close()
        except Exception as error:  # noqa: BLE001
            _LOG.info("the device is no longer metered: %s", first_line(error))

    def _sample(self, meter: Meter) -> None:
        while True:
            is_last = self._stopped.is_set()
            images = self._count_images()
            sample = Sample(at_s=monotonic(), images=images, reading=meter.read())
            self._samples.append(sample)
            if is_last:
                return
            self._stopped.wait(meter.interval_s)


def sum_up(samples: Sequence[Sample], driver: str, firmware: str) -> DeviceReadings | None:
    """Returns the readings of a device summed up; None if there are none.

    Args:
        samples: readings in the order of time.
        driver: version of the driver.
        firmware: version of the firmware.
    """
    if not samples:
        return None
    readings = [sample.reading for sample in samples]
    memory = [r.memory_used_bytes for r in readings if r.memory_used_bytes is not None]
    energy_j, source = _energy(samples)
    return DeviceReadings(
        samples=len(samples),
        images=samples[-1].images - samples[0].images,
        driver=driver,
        firmware=firmware,
        memory_used_bytes=max(memory, default=None),
        utilisation=_mean(reading.utilisation for reading in readings),
        clock_mhz=_mean(reading.clock_mhz for reading in readings),
        power_w=_mean(reading.power_w for reading in readings),
        energy_j=energy_j,
        energy_source=source,
    )


def _energy(samples: Sequence[Sample]) -> tuple[float | None, str]:
    """Returns the energy between the first and the last sample in joules, and its source."""
    first, last = samples[0].reading.energy_j, samples[-1].reading.energy_j
    if len(samples) == 1:
        return None, ""
    # The counter begins at 0 again when the driver is loaded again.
    if first is not None and last is not None and last >= first:
        return last - first, "counter"
    powers = [(sample.at_s, sample.reading.power_w) for sample in samples]
    energy_j = 0.0
    for (begin_s, before_w), (end_s, after_w) in pairwise(powers):
        if before_w is None or after_w is None:
            return None, ""
        energy_j += (end_s - begin_s) * (before_w + after_w) / 2
    return energy_j, "power"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
