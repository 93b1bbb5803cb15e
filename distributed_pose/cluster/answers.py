"""The answers of actors: fetched, waited for, and what their failures mean."""

import re
from collections.abc import Sequence
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

from distributed_pose.engine.reducer import ForeignMapsError
from distributed_pose.engine.results import describe
from distributed_pose.locations import redacted

# How Ray tells the memory of a node and of a process that it ended.
_NODE_MEMORY = re.compile(r"was ([\d.]+ ?[A-Z]+) used / ([\d.]+ ?[A-Z]+) limit")


_PROCESS_MEMORY = re.compile(r"actual memory used=([\d.]+ ?[A-Z]+)")


_LONGEST_WAIT_S = 1.0


# Of an answer that is there, and need only be fetched.
_FETCH_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class CallFailure:
    """What came instead of an answer.

    Attributes:
        reason: one line.
        error: that the actor raised; None if it did not.
        is_lost_input: whether the call was not even made, for want of what it was to work on.

    Without an error it may be the fault of any call that the actor had.
    """

    reason: str
    error: BaseException | None = None
    is_lost_input: bool = False

    @property
    def is_foreign_input(self) -> bool:
        """Whether the maps of a call were of other images, which is the fault of their worker."""
        return isinstance(self.error, ForeignMapsError)


def fetch(references: Any) -> Any:
    """Returns the answers to calls that are done, or one `Trouble`."""
    try:
        return ray.get(references, timeout=_FETCH_TIMEOUT_S)
    except GetTimeoutError:
        return CallFailure(f"its answer could not be fetched in {_FETCH_TIMEOUT_S:.0f} s")
    except RayTaskError as error:
        cause = error.cause
        return CallFailure(describe(cause), cause, isinstance(cause, ObjectLostError))
    except RayActorError as error:
        return CallFailure(f"its process died: {_cause_of_death(error)}")
    except OutOfMemoryError as error:
        return CallFailure(memory_kill(str(error)))
    except RayError as error:
        return CallFailure(f"lost: {describe(error)}", None, isinstance(error, ObjectLostError))


def wait(references: Sequence[Any], deadlines: Sequence[float]) -> list[Any]:
    """Returns a reference that is done, or nothing at the next deadline or after a second.

    Whoever waits longer looks whether the run is to end meanwhile.
    """
    now = monotonic()
    timeout_s = max(0.0, min([*deadlines, now + _LONGEST_WAIT_S]) - now)
    done, _ = ray.wait([*references], timeout=timeout_s)
    return list(done)


def memory_kill(text: str) -> str:
    """Returns Ray's report of a process that it ended for want of memory, as one line.

    Args:
        text: of the error, which lists the largest processes of the node over forty lines.
    """
    node, process = _NODE_MEMORY.search(text), _PROCESS_MEMORY.search(text)
    figures = [f"its node used {node[1]} of {node[2]}"] if node else []
    figures += [f"the process {process[1]}"] if process else []
    return f"Ray ended its process for want of memory{': ' if figures else ''}{', '.join(figures)}"


def _cause_of_death(error: RayActorError) -> str:
    lines = str(error).strip().splitlines()
    # Of an exception in a constructor Ray tells the traceback, of anything else the cause first.
    cause = lines[-1 if "creation task" in lines[0] else 0]
    if "connection error code" in lines[-1]:
        cause += " The system may have ended it for want of memory: see `dmesg` on its node."
    return redacted(cause)
