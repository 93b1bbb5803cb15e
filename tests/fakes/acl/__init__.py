"""A stand-in for pyACL that computes with ONNX Runtime and polices how it is called.

Names, arguments and answers are those of pyACL in CANN 8; see `fake` for what a test can do.
"""

from . import fake, mdl, rt, util
from .fake import Refused, Thing, add, api, check_memory, find, remove

__all__ = ["fake", "mdl", "rt", "util"]


@api("code", context=False)
def init(path: str = "") -> None:  # noqa: ARG001
    if fake.initialised:
        raise Refused(100002, "initialised before")
    if fake.finalised:
        raise Refused(100001, "initialised again after the end", violation=True)
    fake.initialised = True


@api("code", context=False)
def finalize() -> None:
    if left := fake.leaks():
        fake.violations.append(f"finalize with {left}")
    fake.initialised, fake.finalised = False, True


@api("plain", failed=None, context=False)
def get_soc_name() -> str:
    return fake.soc


def get_recent_err_msg() -> str | None:
    text, fake.message = fake.message, ""
    return text or None


class DataBuffer(Thing):
    address: int
    size: int


@api("plain")
def create_data_buffer(address: int, size: int) -> int:
    check_memory(address, size, "device memory")
    buffer = DataBuffer("data buffer")
    buffer.address, buffer.size = address, size
    return add(buffer)


@api("code")
def destroy_data_buffer(buffer: int) -> None:
    find(buffer, "data buffer")
    remove(buffer, "data buffer")
