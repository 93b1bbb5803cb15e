"""Devices, contexts, streams, memory and copies."""

import ctypes
from threading import get_ident

from . import fake
from .fake import Event, Refused, Stream, Task, Thing, add, api, check_memory, find, remove

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
KINDS = {
    HOST_TO_DEVICE: ("device memory", "host memory"),
    DEVICE_TO_HOST: ("host memory", "device memory"),
}


@api("code", context=False)
def set_device(device: int) -> None:
    if not 0 <= device < fake.devices:
        raise Refused(107001, f"there is no device {device}")
    fake.device_users[device] += 1
    if device not in fake.default_contexts:
        fake.default_contexts[device] = add(Thing("default context"))
    fake.current[get_ident()] = fake.default_contexts[device]


@api("code", context=False)
def reset_device(device: int) -> None:
    if not fake.device_users[device]:
        raise Refused(107001, f"device {device} is not set", violation=True)
    fake.device_users[device] -= 1
    if not fake.device_users[device]:
        default = fake.default_contexts.pop(device)
        remove(default, "default context")
        _forget_context(default)


@api("value", context=False)
def create_context(device: int) -> int:
    if not fake.device_users[device]:
        raise Refused(107001, f"context on device {device}, which is not set", violation=True)
    context = add(Thing("context"))
    fake.current[get_ident()] = context
    return context


@api("code", context=False)
def destroy_context(context: int) -> None:
    find(context, "context")
    for thing in list(fake.things.values()):
        if thing.context == context and thing.kind in {"stream", "model"} and not thing.refused:
            fake.violations.append(f"context destroyed before its {thing.kind}")
    remove(context, "context")
    _forget_context(context)


@api("code", context=False)
def set_context(context: int) -> None:
    find(context, "context")
    fake.current[get_ident()] = context


def _forget_context(context: int) -> None:
    for thread, current in list(fake.current.items()):
        if current == context:
            del fake.current[thread]


@api("value")
def create_stream() -> int:
    return add(Stream("stream"))


@api("code")
def destroy_stream(stream: int) -> None:
    if find(stream, "stream").pending:
        fake.violations.append("stream destroyed with work in flight")
    remove(stream, "stream")


@api("code")
def synchronize_stream(stream: int) -> None:
    found = find(stream, "stream")
    fake.perform(found)
    fake.wait(found.clock_ms)


@api("value")
def create_event() -> int:
    return add(Event("event"))


@api("code")
def destroy_event(event: int) -> None:
    if fake.recording(find(event, "event")):
        fake.violations.append("event destroyed before it happened")
    remove(event, "event")


@api("code")
def record_event(event: int, stream: int) -> None:
    found, of = find(event, "event"), find(stream, "stream")

    def work() -> None:
        found.happened_ms = found.timed_ms = of.clock_ms

    found.records += 1
    found.timed_ms = None
    fake.queue(stream, Task("record", work, event=found))


@api("code")
def reset_event(event: int, stream: int) -> None:
    found = find(event, "event")
    if not found.records:
        raise Refused(107000, "an event is reset that was never recorded", violation=True)

    def work() -> None:
        found.happened_ms = None

    fake.queue(stream, Task("reset", work))


@api("code")
def stream_wait_event(stream: int, event: int) -> None:
    found = find(event, "event")
    if not found.records:
        raise Refused(107000, "a stream waits for what was never recorded", violation=True)
    fake.queue(stream, Task("wait", lambda: None, event=found))


@api("code")
def synchronize_event(event: int) -> None:
    found = find(event, "event")
    while stream := fake.recording(found):
        fake.perform(stream, found)
    if found.happened_ms is None:
        raise Refused(107000, "the host waits for what was never recorded", violation=True)
    fake.wait(found.happened_ms)


@api("value", failed=0.0)
def event_elapsed_time(start: int, end: int) -> float:
    times = [find(event, "event").timed_ms for event in (start, end)]
    if None in times:
        raise Refused(107000, "an event has no time before it happened", violation=True)
    # The real call returns single precision.
    return ctypes.c_float(times[1] - times[0]).value


@api("value")
def malloc(size: int, policy: int) -> int:
    if policy not in {0, 1, 2}:
        raise Refused(107000, f"policy {policy}", violation=True)
    return fake.new_memory("device memory", size)


@api("code")
def free(address: int) -> None:
    fake.free_memory(address, "device memory")


@api("value")
def malloc_host(size: int) -> int:
    return fake.new_memory("host memory", size)


@api("code")
def free_host(address: int) -> None:
    fake.free_memory(address, "host memory")


@api("code")
def memcpy_async(target: int, room: int, source: int, size: int, kind: int, stream: int) -> None:
    if kind not in KINDS or size > room:
        raise Refused(107000, f"copy of {size} bytes to {room}, kind {kind}", violation=True)
    if target % fake.ALIGNMENT or source % fake.ALIGNMENT:
        raise Refused(107008, "copy from or to an address that is not aligned", violation=True)

    def work() -> None:
        to, of = KINDS[kind]
        check_memory(target, room, to)
        check_memory(source, size, of)
        ctypes.memmove(target, source, size)

    check_memory(target, room, KINDS[kind][0])
    check_memory(source, size, KINDS[kind][1])
    way = "in" if kind == HOST_TO_DEVICE else "out"
    fake.queue(stream, Task("copy", work, fake.copy_ms[way]))
