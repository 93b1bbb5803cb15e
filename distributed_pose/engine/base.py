"""What runs workers and reducers: the protocol, and the engine without Ray."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from distributed_pose.data.shards import Shard
from distributed_pose.engine.trials import Sweep
from distributed_pose.errors import BackendError, SetupError
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.makers import Calibration
from distributed_pose.records import (
    DevicePlan,
    DeviceReady,
    Faults,
    HostUse,
    ImagesToRead,
    Memory,
    ShardResult,
)

_LOG = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs shards on devices. Used as a context manager, which frees the devices."""

    def devices(self) -> tuple[DevicePlan, ...]:
        """Returns the devices that the run uses."""

    def start(
        self,
        model: ModelSource,
        calibration: Calibration | None = None,
        images: ImagesToRead | None = None,
    ) -> tuple[DeviceReady, ...]:
        """Returns when every device has loaded and warmed up its model.

        What a device runs is compiled where it is not in the cache, once for all devices alike.

        Args:
            model: of the user.
            calibration: for devices that compute in int8.
            images: that workers read; None where shards bring them.

        Raises:
            ConfigError: if a backend cannot be what is asked of it.
            SetupError: if a device cannot run the model, or its node cannot read the images.
        """

    def compile_s(self) -> float:
        """Returns the seconds of `start` that went into compiling."""

    def sweep(self, device: str, batch_size: int, least_s: float) -> Sweep:
        """Returns how long batches take on a device; see `Worker.sweep`."""

    def run(self, shards: Iterable[Shard], num_images: int = 0) -> Iterator[ShardResult]:
        """Yields the results of all shards, in the order in which they are done.

        A shard whose device fails goes elsewhere, a device that keeps failing is given up, and so
        is an image that devices keep failing with. An image may come more than once.

        Raises:
            ExecutionError: if no device is left, or the run does not go on.
        """

    def memory(self) -> Memory:
        """Returns what the run has taken so far, while its processes live."""

    def host_use(self) -> HostUse:
        """Returns what the host has done for the shards of `run`."""

    def faults(self) -> Faults:
        """Returns what went wrong so far and was dealt with."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@contextmanager
def starting(device: str) -> Iterator[None]:
    """Has what cannot be compiled for a device be an error of its backend.

    Args:
        device: name of the device.

    Raises:
        BackendError: in place of other `SetupError`s.
    """
    try:
        yield
    except SetupError as error:
        raise BackendError(error.message, error.hint, device=device) from None
