"""Observes the device and the machine of a worker while it infers images."""

from threading import Lock
from time import monotonic

from distributed_pose.devices.host import host_load
from distributed_pose.devices.kinds import KINDS
from distributed_pose.devices.metering import Meter, Sampler
from distributed_pose.packages import load
from distributed_pose.records.devices import DevicePlan
from distributed_pose.records.facts import WorkerReadings

# Readings so far are summed up at most once in this time, and at most in this share of the time.
_LEAST_INTERVAL_S = 1.0
_LARGEST_SHARE = 1e-3


class Monitor:
    """Observes from the first shard of a worker until its readings are asked for.

    Args:
        plan: device of the worker.
        interval_s: shortest time between two readings for reports, in seconds.
    """

    def __init__(self, plan: DevicePlan, interval_s: float = _LEAST_INTERVAL_S) -> None:
        self._plan = plan
        self._interval_s = interval_s
        self._next_at = 0.0
        self._before = host_load()
        self._sampler: Sampler | None = None
        self._images = 0
        self._lock = Lock()

    def begin(self) -> None:
        """Starts to meter the device, if it has a meter and is not metered yet."""
        with self._lock:
            if self._sampler is None and KINDS[self._plan.kind].meter:
                self._sampler = Sampler(self._open, lambda: self._images)

    def add(self, images: int) -> None:
        """Counts inferred images."""
        with self._lock:
            self._images += images

    def news(self) -> WorkerReadings | None:
        """Returns what was observed so far, for a report; None if a recent report has it."""
        with self._lock:
            start = monotonic()
            if start < self._next_at:
                return None
            device = self._sampler.so_far() if self._sampler else None
            found = WorkerReadings(device=device, before=self._before, after=host_load())
            least_s = max(self._interval_s, (monotonic() - start) / _LARGEST_SHARE)
            self._next_at = start + least_s
            return found

    def readings(self) -> WorkerReadings:
        """Returns what was observed, and ends the metering of the device."""
        device = self._sampler.stop() if self._sampler else None
        return WorkerReadings(device=device, before=self._before, after=host_load())

    def _open(self) -> Meter | None:
        meter: Meter | None = load(KINDS[self._plan.kind].meter)(self._plan.device_id)
        return meter
