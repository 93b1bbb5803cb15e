"""Heaps of the actors that have room for calls, and of the deadlines of calls."""

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count

from distributed_pose.cluster.calls import Actor, Call


class FreeActors:
    """Actors that may have room for a call; those with the fewest calls come first.

    Args:
        actors: actors that have no calls.
    """

    def __init__(self, actors: Iterable[Actor]) -> None:
        self._numbers = count()
        self._heap: list[tuple[int, int, Actor]] = []
        # Number of the valid entry of each actor in the heap; others are out of date.
        self._valid: dict[Actor, int] = {}
        self._rejected: dict[Actor, None] = {}
        for actor in actors:
            self.offer(actor)

    def offer(self, actor: Actor) -> None:
        """Adds an actor whose number of calls has changed, or whose process has become ready."""
        number = next(self._numbers)
        self._valid[actor] = number
        self._rejected.pop(actor, None)
        heappush(self._heap, (len(actor.calls), number, actor))

    def take(self) -> Actor | None:
        """Returns an actor and removes it until it is offered again; None if there is none."""
        while self._heap:
            _, number, actor = heappop(self._heap)
            if self._valid.get(actor) == number:
                del self._valid[actor]
                return actor
        return None

    def reject(self, actor: Actor) -> None:
        """Keeps an actor that has room, and for which there is no task."""
        self._rejected[actor] = None

    def offer_rejected(self) -> None:
        """Offers all rejected actors, because there may be tasks for them now."""
        for actor in [*self._rejected]:
            self.offer(actor)


class Deadlines:
    """The deadlines of calls in flight.

    The heap has numbers in place of calls, because a call that is done would keep its shard and its
    maps in memory until its deadline.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._heap: list[tuple[float, int]] = []
        self._calls: dict[int, Call] = {}
        self._numbers_of: dict[Call, int] = {}

    def add(self, call: Call) -> None:
        """Adds a call with its current deadline, in place of an earlier one."""
        if call in self._numbers_of:
            self.remove(call)
        number = next(self._numbers)
        self._calls[number], self._numbers_of[call] = call, number
        heappush(self._heap, (call.deadline_at, number))

    def remove(self, call: Call) -> None:
        """Removes a call that is no longer in flight."""
        del self._calls[self._numbers_of.pop(call)]

    @property
    def next_at(self) -> float | None:
        """The next deadline in seconds of the monotonic clock; None without calls."""
        while self._heap and self._heap[0][1] not in self._calls:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def passed(self, now: float) -> list[Call]:
        """Returns the calls whose deadline has passed; they have to be added again or removed.

        Args:
            now: time in seconds of the monotonic clock.
        """
        passed = []
        while self._heap and self._heap[0][0] < now:
            _, number = heappop(self._heap)
            if number in self._calls:
                passed.append(self._calls[number])
        return passed
