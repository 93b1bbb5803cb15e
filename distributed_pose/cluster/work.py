"""What there is to do: shards that are handed out until each has a result, whatever fails.

Delivery is at least once. That an image is counted once is the ledger's affair.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from distributed_pose.cluster.refusals import Refusal, final_failures
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

# A device that has refused so many more images than it has evaluated since is in doubt. An image
# that only such devices have refused is tried on all others.
_MAX_DOUBT = 4

# What was given up is kept for as long as one of its devices may turn out to be at fault. Listed
# images take some hundred bytes each.
_MAX_KEPT_BYTES = 2**24


@dataclass(eq=False)
class Task:
    """A shard on its way to a result.

    Attributes:
        shard: encoded images.
        failed_on: devices that failed with it, by name.
        refusals: of devices that worked, and could not read or decode its images.
        is_suspect: whether it may be what its devices fail of. Such a task has a process to
            itself, so that nothing beside it is blamed for the next failure.
        is_done: whether it has a result, so that copies under way are no longer needed.
    """

    shard: Shard
    failed_on: list[str] = field(default_factory=list)
    refusals: tuple[Refusal, ...] = ()
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
        nodes: of the devices, by name. What one of them cannot read is tried on another node.
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
        for task in self._retries:
            elsewhere = self._elsewhere(task, usable)
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
            self._retries.extend(
                Task(part, refusals=task.refusals, is_suspect=True) for part in _parts(task.shard)
            )
            return ()
        row = images.select(["image_id", "file_name"]).to_pylist()[0]
        tries = f"failed {len(task.failed_on)} times, on {' and '.join(task.failed_on)}: {reason}"
        return (*task.shard.failures, Failure(row["image_id"], row["file_name"], tries))

    def settle(
        self, task: Task, device: str, failures: Sequence[Failure], usable: Collection[str]
    ) -> tuple[Failure, ...]:
        """Takes a task as done, and returns failures that are final.

        Args:
            task: that a device has answered for.
            device: name.
            failures: images that it could not read or decode. They are tried again, elsewhere where
                there is another device.
            usable: devices that are not taken out.
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
            self._retries.append(again)
            return ()
        self._keep(again)
        return final_failures(counting, failures)

    def exclude(self, device: str) -> None:
        """Has all images tried again that were given up because a device could not read them."""
        self._excluded.add(device)
        given_up, self._given_up, self._kept_bytes = self._given_up, [], 0
        for task in given_up:
            if len(self._counting(task)) < _ATTEMPTS:
                self._retries.append(task)
            else:
                self._keep(task)

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
        """Returns images that another device could not read, so that its fault shows at once."""
        for task in self._retries:
            has_no_other_fault = task.refusals and not task.is_suspect
            if has_no_other_fault and device in self._elsewhere(task, usable) and fits(task.shard):
                self._retries.remove(task)
                return task
        return None

    def _elsewhere(self, task: Task, usable: Collection[str]) -> set[str]:
        """Returns the devices that have not had a task, those of other nodes where there are any.

        It is empty if all of them have had it.
        """
        refused = [refusal.device for refusal in task.refusals]
        others = set(usable) - {*task.failed_on, *refused}
        nodes = {self._nodes.get(name, name) for name in refused}
        return {name for name in others if self._nodes.get(name, name) not in nodes} or others

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


def _part(shard: Shard, image_ids: Collection[int]) -> Shard:
    """Returns some images of a shard as one, without what is of the whole."""
    ids = shard.images.column("image_id").to_pylist()
    rows = [row for row, image_id in enumerate(ids) if image_id in image_ids]
    return Shard(shard.number, shard.images.take(pa.array(rows)), (), ())


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
