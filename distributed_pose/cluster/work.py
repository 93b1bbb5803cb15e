"""What there is to do: shards that are handed out until each has a result, whatever fails.

Delivery is at least once. That an image is counted once is the ledger's affair.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from distributed_pose.data.shards import MAX_SHARD_BYTES, Shard, join_shards, num_images
from distributed_pose.records import Failure

# A shard that fails twice is taken apart, an image that fails twice is given up: once may be the
# device's fault, and where there is another device, the second try is on that.
_ATTEMPTS = 2

# What fails once is tried again after the rest, when its devices have shown whether they work.
# More than so many are not kept in memory meanwhile.
_MAX_RETRIES = 32


# What is left is to be dealt out evenly: at least so many tasks for each device.
_TASKS_LEFT = 6


@dataclass(eq=False)
class Task:
    """A shard on its way to a result.

    Attributes:
        shard: encoded images.
        failed_on: devices that failed with it, by name.
        is_suspect: whether it may be what its devices fail of. Such a task has a process to
            itself, so that nothing beside it is blamed for the next failure.
        is_done: whether it has a result, so that copies under way are no longer needed.
    """

    shard: Shard
    failed_on: list[str] = field(default_factory=list)
    is_suspect: bool = False
    is_done: bool = False


class Work:
    """Hands out the tasks of a run, new ones from a source and failed ones again.

    Args:
        source: of new shards.
        sizes: images of a device's batch, by its name; small shards are joined to make one.
        batches: most batches in a task of a device, by its name; 1 of those that are not there.
            There are several while there is much to do, and one at the end, so that no device
            waits for another's last.
        num_images: that the source comes to, where there are to be several.
    """

    def __init__(
        self,
        source: Iterator[Shard],
        sizes: Mapping[str, int] | None = None,
        batches: Mapping[str, int] | None = None,
        num_images: int = 0,
    ) -> None:
        self._source = source
        self._batches = batches or {}
        self._num_left = num_images
        self._sizes = sizes or {}
        self._fresh: deque[Shard] = deque()
        self._retries: deque[Task] = deque()

    def is_left(self) -> bool:
        """Returns whether there is a task to hand out."""
        self._drop_done()
        return bool(self._retries or self._peek(1))

    def take(
        self,
        device: str,
        usable: Collection[str],
        fits: Callable[[Shard], bool] = lambda _: True,
        *,
        is_idle: bool = True,
    ) -> Task | None:
        """Returns the next task for a device, if there is one for it.

        Args:
            device: name.
            usable: devices that are not taken out. A task is not handed to a device that failed
                with it while there is one that has not.
            fits: whether there is room for a shard; what does not fit stays.
            is_idle: whether the device has nothing else, and may get what is suspect.
        """
        self._drop_done()
        size = self._size(device, len(usable))
        if len(self._retries) <= _MAX_RETRIES and (parts := self._peek(size)):
            shard = join_shards(parts)
            if not fits(shard):
                return None
            for _ in parts:
                self._fresh.popleft()
            self._num_left -= num_images(shard)
            return Task(shard)
        for task in self._retries:
            elsewhere = set(usable) - set(task.failed_on)
            if task.is_suspect and not is_idle:
                continue
            if (device in elsewhere or not elsewhere) and fits(task.shard):
                self._retries.remove(task)
                return task
        return None

    def put_back(self, task: Task) -> None:
        """Has a task handed out again without blame."""
        if not (task.is_done or task in self._retries):
            self._retries.append(task)

    def fail(self, task: Task, device: str, reason: str) -> tuple[Failure, ...]:
        """Has a task tried again that a device failed with, and returns failures that are final.

        Args:
            task: to be tried again, or in parts.
            device: name.
            reason: why it failed.
        """
        if task.is_done:
            return ()
        task.failed_on.append(device)
        task.is_suspect = True
        images = task.shard.images
        if len(task.failed_on) < _ATTEMPTS:
            self.put_back(task)
            return ()
        task.is_done = True
        if not images.num_rows:
            return task.shard.failures
        if images.num_rows > 1:
            self._retries.extend(Task(part, is_suspect=True) for part in _parts(task.shard))
            return ()
        row = images.select(["image_id", "file_name"]).to_pylist()[0]
        tries = f"failed {len(task.failed_on)} times, on {' and '.join(task.failed_on)}: {reason}"
        return (*task.shard.failures, Failure(row["image_id"], row["file_name"], tries))

    def _size(self, device: str, num_devices: int) -> int:
        batch_size = self._sizes.get(device, 1)
        share = self._num_left // (_TASKS_LEFT * max(1, num_devices) * batch_size)
        return batch_size * max(1, min(self._batches.get(device, 1), share))

    def _peek(self, size: int) -> list[Shard]:
        """Returns the next shards that come to at most so many images; one if there is any."""
        parts: list[Shard] = []
        images = encoded_bytes = 0
        while images < size and (shard := self._at(len(parts))):
            images += num_images(shard)
            encoded_bytes += shard.images.nbytes
            if parts and (images > size or encoded_bytes > MAX_SHARD_BYTES):
                break
            parts.append(shard)
        return parts

    def _at(self, position: int) -> Shard | None:
        if position == len(self._fresh) and (shard := next(self._source, None)):
            self._fresh.append(shard)
        return self._fresh[position] if position < len(self._fresh) else None

    def _drop_done(self) -> None:
        if any(task.is_done for task in self._retries):
            self._retries = deque(task for task in self._retries if not task.is_done)


def _parts(shard: Shard) -> Iterator[Shard]:
    """Yields the images of a shard as shards of one; what is of the whole goes with the first."""
    for row in range(shard.images.num_rows):
        # A copy: a slice is serialised with all of the buffers that it is from.
        image = shard.images.take(pa.array([row]))
        of_whole = row == 0
        yield Shard(
            shard.number,
            image,
            shard.failures if of_whole else (),
            shard.read_ns if of_whole else (),
        )
