"""The state of the fake of pyACL: calls, allocated resources, and violations of its rules.

Not part of pyACL. Tests set what is to fail and ask what is left; a fresh import is a fresh
process. Misuse that the real library may let pass, or die of, is noted in `violations`.
"""

import ctypes
import functools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ALIGNMENT = 64

# Uninitialised memory has bytes of 255, which are not a number as floats.
UNWRITTEN = 0xFF

soc = "Ascend310P3"
devices = 2

# Position in `calls` of the only call that fails, and of the first of the calls that all fail.
fail_at: int | None = None
fail_from: int | None = None
INJECTED = 507899

# Whether queued work is done at once and not when it is waited for. Programs must work with both.
eager = False

# Durations of a copy of any size and of an execution on the clock of the device, and the clock of
# the host, which only waiting advances.
copy_ms = {"in": 0.0, "out": 0.0}
execute_ms = 0.0
host_ms = 0.0

calls: list[str] = []
violations: list[str] = []
message = ""


class Refused(Exception):  # noqa: N818
    """A call that returns an error code."""

    def __init__(self, code: int, text: str, *, violation: bool = False) -> None:
        super().__init__(text)
        self.code = code
        if violation:
            violations.append(text)


@dataclass
class Thing:
    """A resource with a handle. One whose release failed at the request of a test is still a leak,
    but calls that fail because of it are not violations."""

    kind: str
    context: int = 0
    refused: bool = False


@dataclass
class Memory(Thing):
    """Real memory, whose handle is its address."""

    size: int = 0
    block: Any = None
    address: int = 0


@dataclass
class Task:
    """Work of a stream: its duration on the device, and its effect at its end.

    A task that waits for an event can start when `ready` returns True, and not before the event.
    """

    what: str
    work: Callable[[], None]
    takes_ms: float = 0.0
    event: "Event | None" = None


@dataclass
class Stream(Thing):
    """Tasks in sequence; `clock_ms` is the end of the last finished task."""

    pending: list[Task] = field(default_factory=list)
    clock_ms: float = 0.0


@dataclass
class Event(Thing):
    """`happened_ms` is None before it was recorded and after it was reset; `timed_ms` stays."""

    happened_ms: float | None = None
    timed_ms: float | None = None
    records: int = 0


things: dict[int, Thing] = {}
initialised = False
finalised = False
device_users: Counter[int] = Counter()
default_contexts: dict[int, int] = {}
current: dict[int, int] = {}
# Freed memory stays allocated, so that reading it gives wrong values instead of a crash.
_freed: list[Any] = []
_handles = iter(range(0x10000, 2**62, 0x10))


def api(answers: str, *, failed: Any = 0, context: bool = True) -> Callable[..., Any]:
    """Makes a function of pyACL.

    Args:
        answers: `code` for a code; `value` for a value and a code; `plain` for a value alone.
        failed: value that a failed call returns.
        context: whether the thread must have a context.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        name = f"{function.__module__.removeprefix('acl.')}.{function.__name__}"

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            value, code = failed, 0
            try:
                _enter(name.removeprefix("acl."), arguments, context=context)
                value = function(*arguments)
            except Refused as refusal:
                code = refusal.code
                globals()["message"] = f"EE9999: {refusal}"
            return {"code": code, "value": (value, code), "plain": value}[answers]

        call.answers = answers  # type: ignore[attr-defined]
        return call

    return wrap


def _enter(name: str, arguments: tuple[Any, ...], *, context: bool) -> None:
    calls.append(name)
    index = len(calls) - 1
    if index == fail_at or (fail_from is not None and index >= fail_from):
        if _gives_back(name) and arguments and arguments[0] in things:
            things[arguments[0]].refused = True
        raise Refused(INJECTED, "a test wanted this call to fail")
    if not initialised and name != "init":
        raise Refused(100001, f"{name} before init or after finalize", violation=True)
    if context and not current.get(threading.get_ident()):
        raise Refused(107002, f"{name} in a thread without a context", violation=True)


def _gives_back(name: str) -> bool:
    return any(word in name for word in ("free", "destroy", "unload"))


def add(thing: Thing, handle: int = 0) -> int:
    handle = handle or next(_handles)
    thing.context = current.get(threading.get_ident(), 0)
    things[handle] = thing
    return handle


def find(handle: int, kind: str) -> Any:
    thing = things.get(handle)
    if thing is None or thing.kind != kind:
        raise Refused(107017, f"{handle:#x} is no {kind}, or no more", violation=True)
    return thing


def remove(handle: int, kind: str) -> Any:
    thing = find(handle, kind)
    del things[handle]
    return thing


def new_memory(kind: str, size: int) -> int:
    if size <= 0:
        raise Refused(107000, f"{kind} of {size} bytes", violation=True)
    block = (ctypes.c_ubyte * (size + ALIGNMENT))()
    address = -(-ctypes.addressof(block) // ALIGNMENT) * ALIGNMENT
    ctypes.memset(address, UNWRITTEN, size)
    return add(Memory(kind, size=size, block=block, address=address), address)


def free_memory(address: int, kind: str) -> None:
    memory = remove(address, kind)
    # Devices of other threads may continue.
    if any(stream.pending for stream in streams() if stream.context == memory.context):
        violations.append(f"{kind} freed while work is in flight")
    ctypes.memset(address, UNWRITTEN, memory.size)
    _freed.append(memory.block)


def check_memory(address: int, size: int, kind: str) -> None:
    """Checks that a range lies in allocated memory."""
    for thing in list(things.values()):
        if (
            isinstance(thing, Memory)
            and thing.kind == kind
            and thing.address <= address
            and address + size <= thing.address + thing.size
        ):
            return
    text = f"{size} bytes at {address:#x} are not within {kind} that is there"
    raise Refused(107000, text, violation=True)


def streams() -> list[Stream]:
    # The list is copied first, because other threads allocate and release meanwhile.
    return [thing for thing in list(things.values()) if isinstance(thing, Stream)]


def queue(handle: int, task: Task) -> None:
    stream = find(handle, "stream")
    if stream.context != current[threading.get_ident()]:
        raise Refused(107003, "the stream is of another context", violation=True)
    # No task starts before the host has queued it.
    begin = Task("begin", functools.partial(_not_before, stream, host_ms))
    stream.pending += [begin, task]
    if eager:
        perform(stream)


def perform(stream: Stream, until: "Event | None" = None) -> None:
    """Runs the tasks of a stream, all or up to the recording of an event."""
    while stream.pending:
        task = stream.pending.pop(0)
        if task.what == "wait":
            _wait_for(task.event, stream)
        stream.clock_ms += task.takes_ms
        task.work()
        if task.what == "record" and task.event is until:
            return


def wait(ms: float) -> None:
    """Advances the clock of the host to a time of the device."""
    global host_ms  # noqa: PLW0603
    host_ms = max(host_ms, ms)


def recording(event: Event) -> Stream | None:
    """Returns the stream with a pending recording of an event."""
    for stream in streams():
        if any(task.what == "record" and task.event is event for task in stream.pending):
            return stream
    return None


def _not_before(stream: Stream, ms: float) -> None:
    stream.clock_ms = max(stream.clock_ms, ms)


def _wait_for(event: Event | None, stream: Stream) -> None:
    if event is None:
        return
    # An event that was recorded earlier and not reset lets a stream continue too early.
    if event.happened_ms is not None and recording(event):
        violations.append("an event was used again that was not reset")
    while event.happened_ms is None and (other := recording(event)):
        perform(other, event)
    if event.happened_ms is None:
        violations.append("a stream waits for ever for an event that nobody records")
    else:
        _not_before(stream, event.happened_ms)


def new_process() -> None:
    """Resets the state, as a new process has it."""
    global fail_at, fail_from, initialised, finalised, message, host_ms  # noqa: PLW0603
    fail_at = fail_from = None
    host_ms = 0.0
    initialised = finalised = False
    message = ""
    for known in (calls, violations, things, device_users, default_contexts, current, _freed):
        known.clear()


def leaks() -> dict[str, int]:
    """Returns the number of unreleased resources by kind; devices count, too."""
    kinds = Counter(thing.kind for thing in things.values() if thing.kind != "default context")
    return dict(kinds + Counter({"device": device_users.total()}))
