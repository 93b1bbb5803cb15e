"""A budget for the bytes of shards and maps in flight in the object store."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from distributed_pose.config.schema import RunConfig
from distributed_pose.data.shards import Shard
from distributed_pose.errors import SetupError
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.images import STRIDE
from distributed_pose.records.models import FLOATS
from distributed_pose.vision.profiles import PROFILES

# Share of the smallest object store. Ray's own copies and other users of it need the rest.
_SHARE = 0.5


@dataclass
class Reservation:
    """The bytes of one shard in flight.

    Attributes:
        reserved_bytes: bytes that the shard and its maps can take.
        used_bytes: bytes that the shard and its maps take so far.
    """

    reserved_bytes: int
    used_bytes: int


class InFlightBudget:
    """Counts the bytes in flight, and says whether another shard fits.

    Args:
        config: configuration of the run.
        room_bytes: size of the smallest object store; 0 sets no bound.
        shard_size: largest number of images that are sent at once.
        keypoints: keypoint set of the maps; None is the body of COCO.

    Raises:
        SetupError: if not even one batch fits.
    """

    def __init__(
        self,
        config: RunConfig,
        room_bytes: int,
        shard_size: int = 1,
        keypoints: KeypointSet | None = None,
    ) -> None:
        found = keypoints or coco_body()
        self._channels = found.num_heatmaps + found.num_pafs
        # Maps of several scales are never gathered.
        self._profile = PROFILES[config.profile].sized(config.input_size)
        self._gathers_maps = config.gather == "maps"
        self._itemsize = np.dtype(FLOATS[config.maps_dtype]).itemsize
        self._room = int(room_bytes * _SHARE) if room_bytes else 0
        self._reserved = self._used = self.peak_bytes = self.total_bytes = 0
        needed = shard_size * self._maps_bytes(*self._profile.nominal_input)
        if self._room and needed > self._room:
            raise SetupError(
                f"the maps of a batch take {needed / 1e6:.0f} MB, and an object store has "
                f"{room_bytes / 1e6:.0f} MB, of which half is for them",
                "set a smaller batch_size, or gather=poses",
            )

    def has_room(self, shard: Shard) -> bool:
        """Returns whether a shard may be sent; a single shard in flight always may."""
        return not (self._reserved and self._room) or (
            self._reserved + self._bytes(shard) <= self._room
        )

    def reserve(self, shard: Shard) -> Reservation:
        """Reserves the bytes of a shard that is sent to a worker."""
        load = Reservation(self._bytes(shard), shard.image_bytes)
        self._reserved += load.reserved_bytes
        self._add(load.used_bytes)
        return load

    def add(self, load: Reservation, maps_bytes: int) -> None:
        """Adds the bytes of a shard's maps, which have arrived."""
        load.used_bytes += maps_bytes
        self._add(maps_bytes)

    def release(self, load: Reservation) -> None:
        """Releases the bytes of a shard that is no longer in flight."""
        self._reserved -= load.reserved_bytes
        self._add(-load.used_bytes)

    def _add(self, number: int) -> None:
        self._used += number
        self.total_bytes += max(0, number)
        self.peak_bytes = max(self.peak_bytes, self._used)

    def _bytes(self, shard: Shard) -> int:
        if not self._gathers_maps:
            return shard.image_bytes
        columns = (shard.images.column(name).to_pylist() for name in ("height", "width"))
        sizes = Counter(zip(*columns, strict=True))
        return shard.image_bytes + sum(
            number * self._maps_bytes(*self._profile.input_shape(*size)[1:])
            for size, number in sizes.items()
        )

    def _maps_bytes(self, height: int, width: int) -> int:
        cells = -(-height // STRIDE) * -(-width // STRIDE)
        return cells * self._channels * self._itemsize * self._gathers_maps
