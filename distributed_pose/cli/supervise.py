"""Runs the command in a child process, and watches it from the process that the user started.

Ray ends the process of a driver whose node has died, and vendors' libraries can crash; neither
prints a message. The watching process then reports what happened, and starts the command again to
sum up the run.
"""

import atexit
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from distributed_pose.errors import ExecutionError

# This option of Linux's `prctl` makes the kernel signal a process when its parent ends.
_PR_SET_PDEATHSIG = 1

_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_POLL_S = 0.2

# After its exit code the command has printed its results, and only vendors' libraries still run.
_TEARDOWN_S = 10.0

# The hidden option of `evaluate` that sums up a run whose process has ended.
SUM_UP = "--sum-up"

_channel = -1


class _End(NamedTuple):
    """The end of a command.

    Attributes:
        code: exit code of the command; None if its process ended before there was one.
        output: folder of the command's run; empty if the command did not report one.
        status: status of the command's process, as `os.waitpid` returns it; that of the signal if
            the command was asked to stop and ended without an exit code.
    """

    code: int | None
    output: str
    status: int


def report_output(folder: str) -> None:
    """Reports the folder of a run to the watching process, if there is one.

    Args:
        folder: folder of the run, a path or a URI with its credentials.
    """
    if _channel >= 0:
        os.write(_channel, f"output {folder}\n".encode(errors="surrogateescape"))


def run_supervised(main: Callable[[], NoReturn]) -> NoReturn:
    """Runs a command in a child process, and exits with its exit code.

    If the process of a run ends without an exit code, the same command runs again with `SUM_UP` and
    sums up the run.

    Args:
        main: function that runs the command; it reads `sys.argv` and raises `SystemExit`.
    """
    if not hasattr(signal, "sigtimedwait"):
        main()
    _fill_standard_streams()
    end = _watch(main)
    if end.code is None and end.output:
        sys.argv = [*_resuming_words(end.output), SUM_UP, _reason(end.status)]
        end = _watch(main)
    if end.code is None:
        sys.exit(_report(f"the process of the command ended by {_reason(end.status)}"))
    sys.exit(end.code)


def _report(message: str) -> int:
    """Prints an error without the modules of the command, and returns its exit code."""
    with suppress(OSError):
        os.write(2, f"error: {message}\n".encode())
    return ExecutionError.exit_code


def _resuming_words(output: str) -> list[str]:
    """Returns the words of this command, with the folder of its run and without `--restart`.

    Args:
        output: folder that the run has begun to write to.
    """
    words = [word for word in sys.argv if word != "--restart"]
    has_output = any(word.partition("=")[0] == "--output" for word in words)
    return words if has_output else [*words, "--output", output]


def _watch(main: Callable[[], NoReturn]) -> _End:
    """Runs a command in a child process, forwards signals to it, and returns how it ended."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    # Both processes would write the lines that are left in a buffer.
    _flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reader)
        _run_child(main, writer)
    os.close(writer)
    try:
        return _wait(child, reader)
    finally:
        os.close(reader)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int, reader: int) -> _End:
    received, deadline_at = b"", float("inf")
    stopped_by = 0
    while True:
        info = signal.sigtimedwait({*_FORWARDED, signal.SIGCHLD}, _POLL_S)
        if info and info.si_signo in _FORWARDED:
            stopped_by = info.si_signo
            # A terminal sends its signals to the child, too; only other signals are forwarded.
            if info.si_code <= 0:
                os.kill(child, info.si_signo)
        pid, status = os.waitpid(child, os.WNOHANG)
        received += _read(reader)
        lines = received.decode(errors="surrogateescape").splitlines()
        codes = [int(line[5:]) for line in lines if line.startswith("exit ")]
        if pid:
            outputs = [line[7:] for line in lines if line.startswith("output ")]
            # Slurm ends Ray together with the command, and Ray may then abort the process.
            cause = status if codes else stopped_by or status
            return _End(codes[0] if codes else None, outputs[-1] if outputs else "", cause)
        if codes and deadline_at == float("inf"):
            deadline_at = time.monotonic() + _TEARDOWN_S
        if time.monotonic() > deadline_at:
            os.kill(child, signal.SIGKILL)


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 2**16)
    except BlockingIOError:
        return b""


def _run_child(main: Callable[[], NoReturn], writer: int) -> NoReturn:
    global _channel  # noqa: PLW0603 - the one pipe of this process to the one that watches it
    _channel = writer
    _die_with_parent()
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        os.write(writer, f"exit {code}\n".encode())
    except KeyboardInterrupt:
        # A run that has begun reports its own end.
        code = _report("stopped")
        os.write(writer, f"exit {code}\n".encode())
    # Vendors' libraries may hang or crash during the interpreter's shutdown, which is not needed.
    atexit._run_exitfuncs()  # noqa: SLF001 - it has no public name
    _flush()
    os._exit(code)


def _fill_standard_streams() -> None:
    """Opens standard input, output and error if closed, or a pipe would get their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - it has no name
    os.close(descriptor)


def _flush() -> None:
    # Python sets a stream that was closed before it started to None.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):
            stream.flush()


def _die_with_parent() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _reason(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return (
            f"exit code {os.WEXITSTATUS(status)}, which happens when Ray on this machine has ended"
        )
    name = signal.Signals(os.WTERMSIG(status)).name
    return f"{name}, which happens when memory runs out" if name == "SIGKILL" else name
