"""Reads shards in a thread while the driver does other work, with a deadline for each read."""

from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread

from distributed_pose.data.shards import Shard
from distributed_pose.errors import ExecutionError

# The number of shards that are read in advance.
_AHEAD = 2

# A read from a network file system may hang forever.
_DEADLINE_S = 120.0
_POLL_S = 1.0


def read_ahead(shards: Iterable[Shard], deadline_s: float = _DEADLINE_S) -> Iterator[Shard]:
    """Yields shards that a thread has read.

    Raises:
        ExecutionError: if a shard takes longer than the deadline. The thread keeps running, because
            a read that hangs cannot be interrupted.
    """
    queue: Queue[Shard | Exception | None] = Queue(_AHEAD)
    stop = Event()
    Thread(target=_fill, args=(shards, queue, stop), daemon=True).start()
    try:
        while (item := _next(queue, deadline_s)) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()


def _next(queue: "Queue[Shard | Exception | None]", deadline_s: float) -> Shard | Exception | None:
    try:
        return queue.get(timeout=deadline_s)
    except Empty:
        raise ExecutionError(
            f"reading the next images takes over {deadline_s:.0f} s",
            "check the storage of data.images",
        ) from None


def _fill(shards: Iterable[Shard], queue: "Queue[Shard | Exception | None]", stop: Event) -> None:
    try:
        for shard in shards:
            if not _put(shard, queue, stop):
                return
        _put(None, queue, stop)
    # Any error is raised again in the thread that iterates over the shards.
    except Exception as error:  # noqa: BLE001
        _put(error, queue, stop)


def _put(
    item: Shard | Exception | None, queue: "Queue[Shard | Exception | None]", stop: Event
) -> bool:
    while not stop.is_set():
        try:
            queue.put(item, timeout=_POLL_S)
        except Full:
            continue
        return True
    return False
