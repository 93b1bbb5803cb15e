"""A diagnosis names the functions in which the threads of a process are."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread

import pytest

from distributed_pose.cluster.diagnosis import describe_threads
from distributed_pose.data.shards import Shard
from distributed_pose.engine.task_queue import TaskQueue


@pytest.fixture
def release() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_function_that_another_thread_is_in_is_named(release: Event) -> None:
    def blocked() -> Iterator[Shard]:
        release.wait(5.0)
        yield from ()

    thread = Thread(target=TaskQueue(blocked()).has_pending)
    thread.start()
    # Not what it waits in, which is Python's and says nothing, nor who called it.
    wait_until(lambda: "engine.task_queue._at" in describe_threads().split(", "))
    assert "wait" not in describe_threads()
    assert "engine.task_queue.has_pending" not in describe_threads()
    release.set()
    thread.join()
    assert "engine.task_queue" not in describe_threads()


def test_the_thread_that_asks_and_those_elsewhere_are_not_named(
    release: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Thread(target=release.wait, args=(5.0,))
    elsewhere.start()
    # Tests before may have left threads that end soon.
    here = {elsewhere.ident, threading.get_ident()}
    frames = sys._current_frames
    monkeypatch.setattr(
        sys, "_current_frames", lambda: {i: frame for i, frame in frames().items() if i in here}
    )
    assert describe_threads() == "no function of this package"
    release.set()
    elsewhere.join()


def test_threads_in_the_same_function_are_named_once(release: Event) -> None:
    def blocked() -> Iterator[Shard]:
        release.wait(5.0)
        yield from ()

    threads = [Thread(target=TaskQueue(blocked()).has_pending) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: describe_threads().count("engine.task_queue._at") == 1)
    release.set()
    for thread in threads:
        thread.join()
