"""Devices, contexts, streams, memory and copies."""

import ctypes
from threading import get_ident

from acl import fake
from acl.fake import Refused, Stream, Thing, add, api, check_memory, find, remove

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
    for thing in fake.things.values():
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
        fake.violations.append("stream destroyed with work under way")
    remove(stream, "stream")


@api("code")
def synchronize_stream(stream: int) -> None:
    fake.perform(find(stream, "stream"))


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
    fake.queue(stream, "copy", work)
