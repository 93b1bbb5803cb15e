"""The queue of shards: each is handed out until it has a result, whatever fails.

Delivery is at least once; the ledger makes sure that an image is counted once.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from distributed_pose.data.shards import MAX_SHARD_BYTES, Shard, join_shards, num_images
from distributed_pose.engine.refusals import Refusal, final_failures
from distributed_pose.records.images import Failure

# A shard that fails twice is split into single images, and an image that fails twice is a recorded
# failure. The first failure may be the device's fault, so the second try is on another device where
# there is one.
_ATTEMPTS = 2

# Failed tasks are tried again after the new ones, when their devices have shown whether they work.
# No more than this many failed tasks are kept in memory before they are tried again.
_MAX_RETRIES = 32

# The remaining images are split evenly: at least this many tasks per device.
_TASKS_LEFT = 6

# A device is in doubt when it has refused this many more images than it has evaluated since. An
# image that only such devices have refused is tried on all others.
_MAX_DOUBT = 4

# Failed images are kept, up to this size, in case one of their devices turns out to be at fault.
# An image that is listed by name takes some hundred bytes.
_MAX_KEPT_BYTES = 2**24


@dataclass(eq=False)
class Task:
    """A shard on its way to a result.

    Attributes:
        shard: encoded images.
        failed_on: devices that failed with it, by name.
        late_on: devices that have not answered in time, by name.
        refusals: refusals by devices that worked but could not read or decode its images.
        is_suspect: whether the task may be the reason why its devices failed. Such a task gets a
            process to itself, so that no other task is blamed for the next failure.
        is_done: whether it has a result, so that its copies in flight are no longer needed.
    """

    shard: Shard
    failed_on: list[str] = field(default_factory=list)
    late_on: list[str] = field(default_factory=list)
    refusals: tuple[Refusal, ...] = ()
    is_suspect: bool = False
    is_done: bool = False


class TaskQueue:
    """Hands out the tasks of a run, new ones from a source and failed ones again.

    Args:
        source: new shards.
        sizes: number of images in a batch, by device name; small shards are joined to fill it.
        batches: largest number of batches per task, by device name; 1 for devices that are not
            named. Tasks have several batches while much is pending and one at the end, so that no
            device waits long for the last task of another.
        num_images: number of images in the source; needed only where tasks have several batches.
        nodes: node of each device, by device name. Images that one node cannot read are tried on
            another node.
    """

    def __init__(
        self,
        source: Iterator[Shard],
        sizes: Mapping[str, int] | None = None,
        batches: Mapping[str, int] | None = None,
        num_images: int = 0,
        nodes: Mapping[str, str] | None = None,
    ) -> None:
        self._source = source
        self._nodes = nodes or {}
        self._excluded: set[str] = set()
        self._doubts: Counter[str] = Counter()
        self._given_up: list[Task] = []
        self._kept_bytes = 0
        self._batches = batches or {}
        self._num_left = num_images
        self._sizes = sizes or {}
        self._fresh: deque[Shard] = deque()
        self._retries: deque[Task] = deque()
        self._num_changes = 0

    @property
    def num_changes(self) -> int:
        """Number that grows when there may be a task for a device for which there was none."""
        return self._num_changes

    def has_pending(self) -> bool:
        """Returns whether any task is pending."""
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
        """Returns the next task for a device; None if there is none for it.

        Args:
            device: name of the device.
            usable: names of the devices that are not excluded. A device does not get a task that it
                failed with while another device has not tried it.
            fits: returns whether a shard fits into the memory for shards in flight; a shard that
                does not fit stays in the queue.
            is_idle: whether the device has no other task, and may get a suspect one.
        """
        self._drop_done()
        if task := self._refused_elsewhere(device, usable, fits):
            return task
        size = self._size(device, len(usable))
        if len(self._retries) <= _MAX_RETRIES and (parts := self._peek(size)):
            shard = join_shards(parts)
            if not fits(shard):
                return None
            for _ in parts:
                self._fresh.popleft()
            self._num_left -= num_images(shard)
            return Task(shard)
        # A device that fails with a task that never failed is at fault itself, and is excluded
        # after a few of them. Suspect tasks would hide that, so they come last.
        for task in sorted(self._retries, key=lambda task: task.is_suspect):
            elsewhere = self._elsewhere(task, usable)
            if task.is_suspect and not is_idle:
                continue
            if (device in elsewhere or not elsewhere) and fits(task.shard):
                self._remove(task)
                return task
        return None

    def requeue(self, task: Task) -> None:
        """Returns a task to the queue without counting a failure."""
        if not (task.is_done or task in self._retries):
            self._try_again(task)

    def repeat(self, task: Task, device: str) -> None:
        """Queues a task a second time, because a device has not answered in time."""
        task.late_on.append(device)
        self.requeue(task)

    def fail(self, task: Task, device: str, reason: str) -> tuple[Failure, ...]:
        """Queues a task again that a device failed with, and returns the failures that are final.

        Args:
            task: the failed task; it is tried again, whole or as single images.
            device: name of the device that failed.
            reason: reason of the failure, on one line.
        """
        if task.is_done:
            return ()
        task.failed_on.append(device)
        task.is_suspect = True
        images = task.shard.images
        if len(task.failed_on) < _ATTEMPTS:
            self.requeue(task)
            return ()
        task.is_done = True
        if not images.num_rows:
            return task.shard.failures
        if images.num_rows > 1:
            for part in _parts(task.shard):
                self._try_again(Task(part, refusals=task.refusals, is_suspect=True))
            return ()
        row = images.select(["image_id", "file_name"]).to_pylist()[0]
        tries = f"failed {len(task.failed_on)} times, on {' and '.join(task.failed_on)}: {reason}"
        return (*task.shard.failures, Failure(row["image_id"], row["file_name"], tries))

    def settle(
        self, task: Task, device: str, failures: Sequence[Failure], usable: Collection[str]
    ) -> tuple[Failure, ...]:
        """Marks a task as done, and returns the failures that are final.

        Args:
            task: the task that a device has answered.
            device: name of the device.
            failures: images that the device could not read or decode. They are tried again, on
                another device where there is one.
            usable: names of the devices that are not excluded.
        """
        evaluated = task.shard.images.num_rows - len(failures)
        self._doubts[device] = max(0, self._doubts[device] - evaluated) + len(failures)
        if task.is_done:
            return ()
        task.is_done = True
        if not failures:
            return ()
        refusal = Refusal(device, {failure.image_id: failure.reason for failure in failures})
        again = Task(_part(task.shard, refusal.reasons), refusals=(*task.refusals, refusal))
        counting = self._counting(again)
        in_doubt = all(self._doubts[refusal.device] >= _MAX_DOUBT for refusal in counting)
        if len(counting) < _ATTEMPTS or (in_doubt and self._elsewhere(again, usable)):
            self._try_again(again)
            return ()
        self._keep(again)
        return final_failures(counting, failures)

    def exclude(self, device: str) -> None:
        """Excludes a device, and queues the images again that failed because of it."""
        self._excluded.add(device)
        given_up, self._given_up, self._kept_bytes = self._given_up, [], 0
        for task in given_up:
            if len(self._counting(task)) < _ATTEMPTS:
                self._try_again(task)
            else:
                self._keep(task)

    def _try_again(self, task: Task) -> None:
        self._retries.append(task)
        self._num_changes += 1

    def _remove(self, task: Task) -> None:
        self._retries.remove(task)
        # New tasks are handed out again once there are few failed ones.
        self._num_changes += 1

    def _counting(self, task: Task) -> list[Refusal]:
        """Returns the refusals of devices that have not been excluded."""
        return [refusal for refusal in task.refusals if refusal.device not in self._excluded]

    def _keep(self, task: Task) -> None:
        self._kept_bytes += task.shard.images.nbytes
        if self._kept_bytes <= _MAX_KEPT_BYTES:
            self._given_up.append(task)

    def _refused_elsewhere(
        self, device: str, usable: Collection[str], fits: Callable[[Shard], bool]
    ) -> Task | None:
        """Returns a task with images that another device refused, to find out what the cause is."""
        for task in self._retries:
            has_no_other_fault = task.refusals and not task.is_suspect
            if has_no_other_fault and device in self._elsewhere(task, usable) and fits(task.shard):
                self._remove(task)
                return task
        return None

    def _elsewhere(self, task: Task, usable: Collection[str]) -> set[str]:
        """Returns the devices that have not tried a task, on other nodes where there are any.

        The set is empty if all devices have tried it.
        """
        refused = [refusal.device for refusal in task.refusals]
        others = set(usable) - {*task.failed_on, *task.late_on, *refused}
        nodes = {self._nodes.get(name, name) for name in refused}
        return {name for name in others if self._nodes.get(name, name) not in nodes} or others

    def _size(self, device: str, num_devices: int) -> int:
        batch_size = self._sizes.get(device, 1)
        share = self._num_left // (_TASKS_LEFT * max(1, num_devices) * batch_size)
        return batch_size * max(1, min(self._batches.get(device, 1), share))

    def _peek(self, size: int) -> list[Shard]:
        """Returns the next shards with at most `size` images together, one if any is left."""
        parts: list[Shard] = []
        images = encoded_bytes = 0
        while images < size and (shard := self._at(len(parts))):
            images += num_images(shard)
            encoded_bytes += shard.image_bytes
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
            self._num_changes += 1


def _part(shard: Shard, image_ids: Collection[int]) -> Shard:
    """Returns some images of a shard as a shard, without the failures and times of the whole."""
    ids = shard.images.column("image_id").to_pylist()
    rows = [row for row, image_id in enumerate(ids) if image_id in image_ids]
    return Shard(shard.number, shard.images.take(pa.array(rows)), (), ())


def _parts(shard: Shard) -> Iterator[Shard]:
    """Yields a shard per image; the failures and times of the whole go with the first one."""
    for row in range(shard.images.num_rows):
        # `take` copies. A slice would be serialised with all buffers of the whole shard.
        image = shard.images.take(pa.array([row]))
        of_whole = row == 0
        yield Shard(
            shard.number,
            image,
            shard.failures if of_whole else (),
            shard.read_ns if of_whole else (),
        )
