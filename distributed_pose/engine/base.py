"""The protocol of engines, which run workers and reducers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from distributed_pose.config.selection import Selection
from distributed_pose.data.shards import Shard
from distributed_pose.engine.trials import Sweep
from distributed_pose.errors import BackendError, SetupError
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.makers import Calibration
from distributed_pose.records.devices import DevicePlan, DeviceReady, ImagesToRead
from distributed_pose.records.facts import DataFlow, EngineFacts, Faults
from distributed_pose.records.shards import ShardResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The images that an engine evaluates.

    Attributes:
        shards: shards to evaluate; reading the next one may take time.
        num_images: number of images in the shards.
        is_listed: whether the shards have the names of their images only, so that they are small
            and the workers read the files.
    """

    shards: Iterable[Shard]
    num_images: int
    is_listed: bool = False


class Engine(Protocol):
    """Runs shards on devices; as a context manager, it frees the devices at its exit."""

    def devices(self, selection: Selection) -> tuple[DevicePlan, ...]:
        """Returns the devices that a run with this selection uses."""

    def start(
        self,
        selection: Selection,
        model: ModelSource,
        calibration: Calibration | None = None,
        images: ImagesToRead | None = None,
    ) -> tuple[DeviceReady, ...]:
        """Loads and warms up the model on every device, and returns the ready devices.

        Artifacts that are not in the cache are compiled, once for all devices that share them.

        Args:
            selection: selection of the run.
            model: model of the user.
            calibration: calibration data for devices that compute in int8.
            images: location of the images that workers read; None if shards contain the images.

        Raises:
            ConfigError: if a backend does not support the selected device kind or precision.
            SetupError: if a device cannot run the model, or its node cannot read the images.
        """

    def sweep(self, device: str, batch_size: int, least_s: float) -> Sweep:
        """Measures batches of one size on a device and returns their times; see `Worker.sweep`.

        Args:
            device: name of the device.
            batch_size: number of images per batch.
            least_s: shortest duration of the measurement in seconds.
        """

    def flow(self) -> DataFlow:
        """Returns how images and maps flow between the processes, once the devices are ready."""

    def run(self, workload: Workload) -> Iterator[ShardResult]:
        """Yields the results of a workload's shards in the order in which they are completed.

        A shard whose device fails is tried on another device. A device that keeps failing is
        excluded, and an image that keeps failing is a recorded failure. An image may have more than
        one result.

        Args:
            workload: shards to evaluate, with their number of images.

        Raises:
            ExecutionError: if no device is left, or the run makes no progress.
        """

    def faults(self) -> Faults:
        """Returns the faults of the devices and reducers so far; any thread may call it."""

    def facts(self) -> EngineFacts:
        """Returns what the engine has measured so far.

        Compile time and faults are available at any time, also after the run has failed. Memory and
        host resources are those of living processes, so the engine must not have exited.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@contextmanager
def starting(device: str) -> Iterator[None]:
    """Turns a failed compilation for a device into an error of the backend of the device.

    Args:
        device: name of the device.

    Raises:
        BackendError: if the block raises a `SetupError`, with the same message and hint.
    """
    try:
        yield
    except SetupError as error:
        raise BackendError(error.message, error.hint, device=device) from None
