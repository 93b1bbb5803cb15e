"""Slow calls overlap, fast ones do not; order and errors are those of a loop."""

from collections.abc import Callable, Iterator
from threading import current_thread, main_thread
from time import perf_counter, sleep

import pytest

from distributed_pose.data.overlap import overlapped


def slow(number: int) -> int:
    # Later calls are faster, so that they end before earlier ones.
    sleep(0.02 if number % 2 else 0.03)
    return number


def test_slow_calls_overlap_and_keep_their_order() -> None:
    start = perf_counter()
    assert list(overlapped(slow, range(100))) == list(range(100))
    assert perf_counter() - start < 0.5 * 100 * 0.02


def test_fast_calls_need_no_threads() -> None:
    threads = set(overlapped(lambda _: current_thread(), range(100)))
    assert threads == {main_thread()}


def test_no_more_items_are_taken_than_are_awaited() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = overlapped(slow, items())
    for _ in range(10):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 50


@pytest.mark.parametrize("position", [0, 50])
def test_an_error_is_raised_where_its_result_is_due(position: int) -> None:
    def fails(number: int) -> int:
        if number == position:
            raise OSError(number)
        return slow(number)

    found: list[int] = []
    results = overlapped(fails, range(100))
    with pytest.raises(OSError, match=str(position)):
        _collect(results.__next__, found)
    assert found == list(range(position))


def _collect(following: Callable[[], int], found: list[int]) -> None:
    while True:
        found.append(following())
