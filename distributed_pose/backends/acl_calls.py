"""Calls pyACL: checks and explains every return code, and releases all resources.

Source: the pyACL reference of CANN 5.1 to 9.0, and the codes of its `acl_base.h`,
`rt_error_codes.h` and `ge_error_codes.h`.
"""

import atexit
from collections.abc import Mapping
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import acl  # type: ignore[import-not-found]

_REPEATED_INIT = 100002
_MESSAGE_CHARACTERS = 300

_DEVICE_STUCK = "check its health with npu-smi info; a reset or a restart of the host helps"
_RECOMPILE = "compile it for this chip and with this version of CANN"
_MEMORY = "lower batch_size, or end the other programs on the device"
_INSTALLATION = "check that npu-smi info lists the device and that this user is in its group"
_REPORT = "this is a bug of distributed-pose: report it with this message"

_CODES: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        100000: ("an argument is wrong", _REPORT),
        100001: ("pyACL is not initialised", _REPORT),
        100003: ("the file is invalid", _RECOMPILE),
        100011: ("there is no such model", _REPORT),
        100012: ("the model cannot be read", _RECOMPILE),
        100013: ("the model cannot be parsed", _RECOMPILE),
        100014: ("the model cannot be read", _RECOMPILE),
        100015: ("the model is cut short", _RECOMPILE),
        100016: ("the model lacks something that this version of CANN needs", _RECOMPILE),
        100017: ("the input does not match the model", _REPORT),
        100018: ("the output does not match the model", _REPORT),
        100019: ("the model has no dynamic batch", _REPORT),
        100039: ("this library can only compile models", "source the set_env.sh of CANN's runtime"),
        107001: ("there is no such device", _INSTALLATION),
        107002: ("the thread has no context", _REPORT),
        107003: ("the stream is of another context", _REPORT),
        107017: ("the handle is invalid", _REPORT),
        107019: ("waiting took too long", _DEVICE_STUCK),
        107020: ("a task took too long", _DEVICE_STUCK),
        145003: ("there is no such model", _REPORT),
        145006: ("the model is cut short", _RECOMPILE),
        145011: ("the input with the batch size is wrong", _REPORT),
        145013: ("the model was not compiled for this batch size", _RECOMPILE),
        200000: ("the host has no memory left", _MEMORY),
        200001: ("this chip cannot do it", _INSTALLATION),
        200002: ("there is no such device", _INSTALLATION),
        207000: ("this chip cannot do it", _INSTALLATION),
        207001: ("there is no memory left", _MEMORY),
        207004: ("there is no device", _INSTALLATION),
        207005: ("the device has no resources left", _MEMORY),
        207006: ("this user may not use the device", "add the user to the group HwHiAiUser"),
        207008: ("the device has no stream left", _MEMORY),
        207018: ("the device has no memory left", _MEMORY),
        245000: ("there is no memory left for the model", _MEMORY),
        245002: ("the device's memory cannot be used", _DEVICE_STUCK),
        500002: (
            "the model cannot be loaded or run, as if compiled for another chip",
            _RECOMPILE,
        ),
        500003: ("the runtime failed", _DEVICE_STUCK),
        500004: ("the driver failed", _DEVICE_STUCK),
        507000: ("the runtime failed", _DEVICE_STUCK),
        507008: ("the model is for another chip", _RECOMPILE),
        507010: ("the device does not answer", _DEVICE_STUCK),
        507011: ("the model failed on the device", _DEVICE_STUCK),
        507012: ("the device does not answer", _DEVICE_STUCK),
        507013: ("a copy to or from the device failed", _DEVICE_STUCK),
        507014: ("an operator took too long", _DEVICE_STUCK),
        507015: ("an operator failed on the device", _DEVICE_STUCK),
        507017: ("an operator took too long", _DEVICE_STUCK),
        507018: ("an operator failed on the device", _DEVICE_STUCK),
        507033: ("the device cannot be started", _DEVICE_STUCK),
        507046: ("waiting for the device took too long", _DEVICE_STUCK),
        507899: ("the driver failed", _DEVICE_STUCK),
        545001: ("the model cannot be loaded", _RECOMPILE),
        545005: ("the model's operators cannot be loaded", _RECOMPILE),
    }
)

# The first digit of a code names its class, by the rules of the reference.
_CLASSES: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        1: ("the call or the installation is wrong", _REPORT),
        2: ("the device lacks a resource or a feature", _MEMORY),
        3: ("the device is busy", "try again"),
        5: ("the device or its software failed", _DEVICE_STUCK),
    }
)


class AclError(Exception):
    """A call of pyACL failed.

    Args:
        call: name of the call without `acl.`.
        code: code that the call returned; None if it returned none.

    Attributes:
        hint: advice for the user.
    """

    def __init__(self, call: str, code: int | None = None) -> None:
        words, self.hint = explain(code) if code is not None else ("it returned nothing", _REPORT)
        answered = "" if code is None else f" with code {code}"
        recent = _recent_message()
        super().__init__(f"acl.{call} failed{answered}: {words}{recent}")


class Resources:
    """The resources of the device and the host that a backend holds; released in reverse order."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, tuple[int, ...]]] = []

    def release_by(self, call: str, *arguments: int) -> None:
        """Records a call that releases a resource."""
        self._calls.append((call, arguments))

    def acquire(self, call: str, *arguments: Any, release: str) -> int:
        """Makes a call that allocates a resource, and returns the resource's handle or address.

        Args:
            call: name of the call without `acl.`.
            arguments: arguments of the call.
            release: name of the call that releases the resource by its handle or address.

        Raises:
            AclError: if the call fails; no resource was allocated.
        """
        handle: int = call_value(call, *arguments)
        self.release_by(release, handle)
        return handle

    def release(self) -> None:
        """Releases all resources; a second call releases nothing.

        Raises:
            AclError: if a release fails; the first error, after all releases were tried.
        """
        failures = []
        while self._calls:
            call, arguments = self._calls.pop()
            try:
                check_call(call, *arguments)
            except AclError as error:
                failures.append(error)
        if failures:
            raise failures[0]


@cache
def initialise() -> None:
    """Initialises pyACL for this process, until the process ends.

    A process can initialise pyACL only once and not again after finalising it, so that no backend
    finalises it.

    Raises:
        AclError: if pyACL cannot be initialised.
    """
    code = acl.init()
    if code == 0:
        atexit.register(acl.finalize)
    # Another library of the process may have initialised pyACL, and then finalises it too.
    elif code != _REPEATED_INIT:
        raise AclError("init", code)


def check_call(call: str, *arguments: Any) -> None:
    """Makes a call that returns only a code.

    Raises:
        AclError: if the code is an error.
    """
    if code := _function(call)(*arguments):
        raise AclError(call, code)


def call_value(call: str, *arguments: Any) -> Any:
    """Makes a call that returns a value and a code, and returns the value.

    Raises:
        AclError: if the code is an error.
    """
    value, code = _function(call)(*arguments)
    if code:
        raise AclError(call, code)
    return value


def call_handle(call: str, *arguments: Any) -> Any:
    """Makes a call that returns a handle, name, size or number without a code, and returns it.

    Raises:
        AclError: if the value is empty, None or 0.
    """
    value = call_raw(call, *arguments)
    if not value:
        raise AclError(call)
    return value


def call_raw(call: str, *arguments: Any) -> Any:
    """Makes a call whose every return value is valid and without a code, and returns the value."""
    return _function(call)(*arguments)


def explain(code: int) -> tuple[str, str]:
    """Returns the meaning of a code and a hint for the user."""
    unknown = ("of an unknown kind", _REPORT)
    return _CODES.get(code) or _CLASSES.get(code // 100_000, unknown)


def _function(call: str) -> Any:
    return attrgetter(call)(acl)


def _recent_message() -> str:
    """Returns the vendor's message about this thread's last failure, in parentheses; or nothing."""
    # Versions of CANN before 5.1 do not have the function.
    recent = getattr(acl, "get_recent_err_msg", None)
    text = " ".join(((recent() if recent else "") or "").split())
    return f" ({text[:_MESSAGE_CHARACTERS]})" if text else ""
