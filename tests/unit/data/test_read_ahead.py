"""Reading ahead in a thread: order, limits, errors and deadlines, and the end of the thread."""

import threading
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread

import pyarrow as pa
import pytest

from distributed_pose import ExecutionError
from distributed_pose.data import read_ahead as module
from distributed_pose.data.read_ahead import read_ahead
from distributed_pose.data.shards import IMAGES, Shard

PATIENCE_S = 5.0


class Source:
    """Yields shards without images, and records the thread that reads them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.num_read = 0
        self.thread = Thread()

    def __iter__(self) -> Iterator[Shard]:
        self.thread = threading.current_thread()
        for number in range(self.number):
            self.num_read += 1
            yield Shard(number, pa.record_batch([[] for _ in IMAGES], schema=IMAGES), (), ())

    def has_ended(self) -> bool:
        self.thread.join(PATIENCE_S)
        return not self.thread.is_alive()


class FaultySource(Source):
    """Fails after its shards."""

    def __iter__(self) -> Iterator[Shard]:
        yield from super().__iter__()
        raise RuntimeError("the disk fell off")


class HangingSource(Source):
    """Hangs after its shards until it is released."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.release = Event()

    def __iter__(self) -> Iterator[Shard]:
        yield from super().__iter__()
        self.release.wait(PATIENCE_S)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 20])
def test_shards_are_yielded_in_order_and_the_thread_ends(number: int) -> None:
    source = Source(number)
    assert [shard.number for shard in read_ahead(source)] == list(range(number))
    assert source.thread is not threading.current_thread()
    assert source.has_ended()


def test_only_a_few_shards_are_read_in_advance() -> None:
    source = Source(100)
    shards = read_ahead(source)
    assert source.num_read == 0
    next(shards)
    # One was requested, two are in the queue, and one waits for space in it.
    wait_until(lambda: source.num_read == 4)
    time.sleep(0.05)
    assert source.num_read == 4
    shards.close()  # type: ignore[attr-defined]


def test_an_error_is_raised_after_the_shards_that_were_read_before_it() -> None:
    source = FaultySource(3)
    shards = read_ahead(source)
    assert [next(shards).number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="the disk fell off"):
        next(shards)
    assert source.has_ended()


def test_a_read_that_hangs_raises_an_error_after_the_deadline() -> None:
    source = HangingSource(1)
    shards = read_ahead(source, deadline_s=0.05)
    assert next(shards).number == 0
    with pytest.raises(ExecutionError, match=r"reading the next images takes over.*data\.images"):
        next(shards)
    # Otherwise it would keep the process from ending.
    assert source.thread.daemon
    assert source.thread.is_alive()
    source.release.set()
    assert source.has_ended()


def test_the_deadline_applies_to_each_shard_and_not_to_all_together() -> None:
    class SlowSource(Source):
        def __iter__(self) -> Iterator[Shard]:
            for shard in super().__iter__():
                time.sleep(0.03)
                yield shard

    assert len([*read_ahead(SlowSource(20), deadline_s=0.5)]) == 20


def test_the_thread_ends_when_its_consumer_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    source = Source(10**9)
    for shard in read_ahead(source):
        if shard.number == 3:
            break
    assert source.has_ended()
