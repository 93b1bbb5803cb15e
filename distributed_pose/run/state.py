"""The state of a run while it evaluates images, which a display may read at any time."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.facts import Faults
from distributed_pose.run.ledger import Ledger

if TYPE_CHECKING:
    from distributed_pose.records.shards import ShardResult


class RunState:
    """The current counts of a run; it may be read from any thread.

    Args:
        ledger: results and failures of the run's images.
        total: number of images of the run.
        devices: devices of the session.
        faults: returns the faults of the session so far.

    Attributes:
        total: number of images of the run.
        devices: devices that the session started with.
        last: last result of the session; None before the first one.
    """

    def __init__(
        self,
        ledger: Ledger,
        total: int,
        devices: Sequence[DeviceReady],
        faults: Callable[[], Faults],
    ) -> None:
        self.total = total
        self.devices = tuple(devices)
        self.last: ShardResult | None = None
        self._ledger = ledger
        self._names = frozenset(device.plan.name for device in devices)
        self._faults = faults

    @property
    def done(self) -> int:
        """Number of images that have a result or a recorded failure, of earlier sessions too."""
        return self._ledger.num_settled

    @property
    def failures(self) -> int:
        """Number of images with a recorded failure."""
        return self._ledger.num_failed

    @property
    def devices_in_use(self) -> int:
        """Number of devices that are not excluded."""
        return len(self.devices) - len(self._names & {*self._faults().taken_out})
