"""The answers of actors: how they are awaited and fetched, and what their failures mean."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from distributed_pose.cluster.feeders import FeederLostError
from distributed_pose.engine.reducer import ForeignMapsError
from distributed_pose.engine.results import describe
from distributed_pose.locations import redacted

# Ray's message about a process that it ended gives the memory of the node and of the process.
_NODE_MEMORY = re.compile(r"was ([\d.]+ ?[A-Z]+) used / ([\d.]+ ?[A-Z]+) limit")


_PROCESS_MEMORY = re.compile(r"actual memory used=([\d.]+ ?[A-Z]+)")


_LONGEST_WAIT_S = 1.0


# Limit for fetching an answer that is already available.
_FETCH_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class CallFailure:
    """A failure in place of an answer.

    Without an error, any call that the actor had in flight may be the cause of the failure.

    Attributes:
        reason: description of the failure, in one line.
        error: exception that the actor raised; None if it raised none.
        is_lost_input: whether the call was not even made, because its input was lost.
    """

    reason: str
    error: BaseException | None = None
    is_lost_input: bool = False

    @property
    def is_foreign_input(self) -> bool:
        """Whether the maps of a call were those of other images, which is their worker's fault."""
        return isinstance(self.error, ForeignMapsError)


def fetch(references: Any) -> Any:
    """Returns the answers to calls that are done, or one `CallFailure`.

    Args:
        references: a reference, or a list of references.
    """
    try:
        return ray.get(references, timeout=_FETCH_TIMEOUT_S)
    except GetTimeoutError:
        return CallFailure(f"its answer could not be fetched in {_FETCH_TIMEOUT_S:.0f} s")
    except RayTaskError as error:
        cause = error.cause
        # A feeder's death is that of the worker's process: any call in flight may be the cause.
        known = None if isinstance(cause, FeederLostError) else cause
        return CallFailure(describe(cause), known, isinstance(cause, ObjectLostError))
    except RayActorError as error:
        return CallFailure(f"its process died: {_cause_of_death(error)}")
    except OutOfMemoryError as error:
        return CallFailure(memory_kill(str(error)))
    except RayError as error:
        return CallFailure(f"lost: {describe(error)}", None, isinstance(error, ObjectLostError))


def wait(references: Sequence[Any], deadlines: Sequence[float]) -> list[Any]:
    """Returns a list of one reference that is done, or an empty one if none is done in time.

    The wait ends at the next deadline, and after a second at the latest.

    Callers that wait longer check in between whether the run is ending.

    Args:
        references: references to wait for.
        deadlines: times at which to stop waiting, in seconds of the monotonic clock.
    """
    done, _ = ray.wait([*references], timeout=_timeout_s(deadlines))
    return list(done)


def _timeout_s(deadlines: Iterable[float]) -> float:
    now = monotonic()
    return max(0.0, min([*deadlines, now + _LONGEST_WAIT_S]) - now)


class RayAnswers:
    """Awaits and fetches the answers of Ray actors, all available ones at once."""

    def wait(self, references: Sequence[Any], deadline_at: float | None) -> Sequence[Any]:
        """Returns all references that are done once one is; none if none is done in time."""
        timeout_s = _timeout_s([] if deadline_at is None else [deadline_at])
        done, rest = ray.wait([*references], timeout=timeout_s)
        if done and rest:
            done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return list(done)

    def fetch(self, references: Sequence[Any]) -> Sequence[Any]:
        """Returns the answer or `CallFailure` of each reference, all of which are done."""
        together = fetch([*references]) if len(references) > 1 else None
        if isinstance(together, list):
            return together
        # One failure stands for all of them, so each is fetched alone.
        return [fetch(reference) for reference in references]


def memory_kill(text: str) -> str:
    """Returns Ray's report of a process that it ended for lack of memory, as one line.

    Args:
        text: text of the error, which lists the largest processes of the node over forty lines.
    """
    node, process = _NODE_MEMORY.search(text), _PROCESS_MEMORY.search(text)
    figures = [f"its node used {node[1]} of {node[2]}"] if node else []
    figures += [f"the process {process[1]}"] if process else []
    return f"Ray ended its process for lack of memory{': ' if figures else ''}{', '.join(figures)}"


def _cause_of_death(error: RayActorError) -> str:
    lines = str(error).strip().splitlines()
    # For an exception in a constructor, Ray's message is the traceback, which ends with the cause.
    # All other messages begin with the cause.
    cause = lines[-1 if "creation task" in lines[0] else 0]
    if "connection error code" in lines[-1]:
        cause += " The system may have ended it for lack of memory: check `dmesg` on its node."
    return redacted(cause)
