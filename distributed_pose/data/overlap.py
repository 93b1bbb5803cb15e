"""Calls a slow function for many items at once, such as reads that wait for an object store."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

# With a request of 20 ms, this many at once are 1,600 per second.
_AT_ONCE = 32

# Calls that take longer than this wait for something; a local file takes a tenth of it.
_SLOW_S = 1e-3

# The first calls may be slow because caches are empty.
_TRIED = 4


def overlapped(function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Yields the results of a function for items, in their order.

    The first calls are made one by one. If they are slow, the others are made many at once in
    threads, which do not keep the process alive if they hang.

    Args:
        function: function that any thread may call.
        items: arguments of the calls.
    """
    remaining = iter(items)
    times_s = []
    for item in islice(remaining, _TRIED):
        start = perf_counter()
        result = function(item)
        times_s.append(perf_counter() - start)
        yield result
    if times_s and min(times_s) > _SLOW_S:
        yield from _in_threads(function, remaining)
    else:
        yield from map(function, remaining)


def calls_per_s(call_s: float) -> float:
    """Returns how many calls per second `overlapped` makes of a function that waits so long."""
    return (_AT_ONCE if call_s > _SLOW_S else 1) / call_s


def _in_threads(function: Callable[[_T], _R], items: Iterator[_T]) -> Iterator[_R]:
    calls: SimpleQueue[tuple[_T, Future[_R]] | None] = SimpleQueue()
    pending: deque[Future[_R]] = deque()
    for _ in range(_AT_ONCE):
        Thread(target=_serve, args=(function, calls), daemon=True).start()
    try:
        for item in items:
            pending.append(Future())
            calls.put((item, pending[-1]))
            if len(pending) >= _AT_ONCE:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for _ in range(_AT_ONCE):
            calls.put(None)


def _serve(
    function: Callable[[_T], _R], calls: "SimpleQueue[tuple[_T, Future[_R]] | None]"
) -> None:
    while call := calls.get():
        item, answer = call
        try:
            answer.set_result(function(item))
        # The error is raised again where the answer is awaited.
        except BaseException as error:  # noqa: BLE001
            answer.set_exception(error)
