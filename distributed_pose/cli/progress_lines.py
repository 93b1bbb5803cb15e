"""Shows progress as lines, where standard error is a log and no terminal."""

from collections.abc import Callable
from datetime import timedelta
from threading import Event, Lock, Thread
from time import monotonic
from typing import Self

from distributed_pose.cli.terminal import print_line

# A log of an hour has 120 lines of this kind.
_EVERY_S = 30.0
_END_S = 1.0


class ProgressLines:
    """Writes a line at each step, and one every 30 s, also while nothing is done.

    As a context manager it writes the regular lines from a thread of its own.

    Args:
        write: writes a line.
        clock: returns the time in seconds.
        every_s: time between regular lines, in seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = monotonic,
        every_s: float = _EVERY_S,
    ) -> None:
        self._write = write or _write_error
        self._clock, self._every_s = clock, every_s
        self._start_s = self._step_s = clock()
        self._step = ""
        self._describe: Callable[[], str] | None = None
        # The command and the thread of the regular lines both write.
        self._lock = Lock()
        self._is_over = Event()
        self._thread = Thread(target=self._repeat, name="progress lines", daemon=True)

    def begin(self, step: str) -> None:
        """Writes that a step begins."""
        with self._lock:
            self._step, self._step_s, self._describe = step, self._clock(), None
            self._write(f"{self._stamp()} {step}")

    def count(self, total: int, done: int, rate: str, describe: Callable[[], str]) -> None:
        """Sets how much is done, which the next regular lines describe.

        Args:
            total: not used, since the description has it.
            done: not used.
            rate: not used.
            describe: returns the description; called from any thread when a line is due.
        """
        del total, done, rate
        self._describe = describe

    def write_state(self) -> None:
        """Writes one regular line: the current step, and what is done or how long it takes."""
        with self._lock:
            waited_s = self._clock() - self._step_s
            describe = self._describe
            state = describe() if describe else f"for {duration(waited_s)}"
            self._write(f"{self._stamp()} {self._step or 'starting'}: {state}")

    def _stamp(self) -> str:
        return f"[{duration(self._clock() - self._start_s)}]"

    def _repeat(self) -> None:
        while not self._is_over.wait(self._every_s):
            self.write_state()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        # A write to a full pipe without a reader can block.
        self._thread.join(_END_S)


def duration(seconds: float) -> str:
    """Returns a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=int(seconds)))


def _write_error(line: str) -> None:
    print_line(line, err=True)
