"""Ends a run on SIGTERM and SIGHUP as on Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end a run as Ctrl-C does, with a report and free devices."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A nested context leaves the handlers to the outer one.
            if handler is not _stop:
                signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    # Further signals are ignored, because Slurm and systemd send one to all processes of a run, and
    # the watching process passes it on.
    for each in _STOPPING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)
