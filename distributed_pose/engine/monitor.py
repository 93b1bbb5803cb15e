"""Observes the device and the machine of a worker while it infers images."""

from threading import Lock

from distributed_pose.devices.host import host_load
from distributed_pose.devices.kinds import KINDS
from distributed_pose.devices.metering import Meter, Sampler
from distributed_pose.packages import load
from distributed_pose.records.devices import DevicePlan
from distributed_pose.records.facts import WorkerReadings


class Monitor:
    """Observes from the first shard of a worker until its readings are asked for.

    Args:
        plan: device of the worker.
    """

    def __init__(self, plan: DevicePlan) -> None:
        self._plan = plan
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

    def readings(self) -> WorkerReadings:
        """Returns what was observed, and ends the metering of the device."""
        device = self._sampler.stop() if self._sampler else None
        return WorkerReadings(device=device, before=self._before, after=host_load())

    def _open(self) -> Meter | None:
        meter: Meter | None = load(KINDS[self._plan.kind].meter)(self._plan.device_id)
        return meter
