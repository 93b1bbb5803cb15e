"""The protocols by which the dispatch loop uses Ray: the actors of a run and their answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from distributed_pose.cluster.calls import Actor


class Answers(Protocol):
    """Awaits and fetches the answers of actors."""

    def wait(self, references: Sequence[Any], deadline_at: float | None) -> Sequence[Any]:
        """Returns the references that are done, or none if none is done in time.

        Args:
            references: references to wait for.
            deadline_at: time at which to stop waiting, in seconds of the monotonic clock.
        """

    def fetch(self, references: Sequence[Any]) -> Sequence[Any]:
        """Returns the answer or `CallFailure` of each reference, all of which are done."""


class Pool(Protocol):
    """The actors of a run, which `ActorPool` implements."""

    is_stopped: bool

    @property
    def workers(self) -> Sequence[Actor]: ...

    @property
    def reducers(self) -> Sequence[Actor]: ...

    @property
    def starting(self) -> Mapping[Any, Actor]: ...

    def restart(
        self, actor: Actor, reason: str, *, is_suspect: bool = False, final: bool = False
    ) -> bool: ...

    def finish_start(self, actor: Actor) -> None: ...
