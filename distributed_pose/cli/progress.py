"""The progress of a command, and the option with a list of counts, which several commands share."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from distributed_pose.cli.progress_lines import ProgressLines, duration
from distributed_pose.cli.terminal import Terminal, is_quiet
from distributed_pose.engine.steps import STEPS
from distributed_pose.errors import ConfigError

if TYPE_CHECKING:
    from distributed_pose.run.state import RunState

# The number of counts is limited, because each means a separate measurement or artifact.
_MAX_COUNTS = 64
_SHOWN = 100


class _Display(Protocol):
    """Shows the steps of a command, and how much of its work is done."""

    def begin(self, step: str) -> None:
        """Shows that a step begins."""

    def count(self, total: int, done: int, rate: str, describe: Callable[[], str]) -> None:
        """Shows how much is done.

        Args:
            total: number of parts of the work.
            done: number of those that are done.
            rate: speed of the work; empty if it is unknown.
            describe: returns the same and more as text, at any later time too.
        """


class RunProgress:
    """Shows the progress of a run.

    Attributes:
        state: state of the run; None until its devices are ready.
    """

    def __init__(self, display: _Display) -> None:
        self.state: RunState | None = None
        self._display = display
        self._start_s, self._done_before = monotonic(), 0

    def __call__(self, state: "RunState") -> None:
        if self.state is None:
            self.state = state
            self._start_s, self._done_before = monotonic(), state.done
        rate = self._images_per_s()
        shown = f"{rate:.1f} images/s" if rate else ""
        self._display.count(state.total, state.done, shown, self._description)

    def _images_per_s(self) -> float:
        """Returns the images per second of this session."""
        elapsed_s = monotonic() - self._start_s
        new = self.state.done - self._done_before if self.state else 0
        return new / elapsed_s if elapsed_s else 0.0

    def _description(self) -> str:
        """Returns the counts, the rate, the time left, the failures and the devices as text."""
        if self.state is None:
            return ""
        state, rate, devices = self.state, self._images_per_s(), len(self.state.devices)
        left = duration((state.total - state.done) / rate) if rate else "unknown time"
        return (
            f"{state.done} of {state.total} images, {rate:.1f} images/s, {left} left, "
            f"{state.failures} failed, {state.devices_in_use} of {devices} devices in use"
        )


@contextmanager
def run_progress() -> Iterator[RunProgress]:
    """Yields the progress of a run; see `progress`."""
    with _display() as display:
        yield RunProgress(display)


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (total, done) that shows the progress of a command.

    On a terminal it is a bar, elsewhere lines, and with `--quiet` nothing. Both name the steps that
    the command logs by `engine.steps.step`. They are on stderr, so that stdout holds only results.
    """
    with _display() as display:
        yield lambda total, done: display.count(total, done, "", lambda: f"{done} of {total} done")


@contextmanager
def _display() -> Iterator[_Display]:
    console = Terminal(stderr=True)
    if is_quiet():
        yield _Silent()
    elif console.is_terminal:
        # Logs above the bar keep the steps, which the bar shows only while they last.
        with _bar(console) as bar, _steps_shown(bar, are_logged=STEPS.isEnabledFor(logging.INFO)):
            yield bar
    else:
        with ProgressLines() as lines, _steps_shown(lines, are_logged=False):
            yield lines


class _Silent:
    def begin(self, step: str) -> None:
        pass

    def count(self, total: int, done: int, rate: str, describe: Callable[[], str]) -> None:
        pass


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None, rate="")

    def begin(self, step: str) -> None:
        self._bar.update(self._task, description=step)

    def count(self, total: int, done: int, rate: str, describe: Callable[[], str]) -> None:
        del describe  # It has more than fits on a line with a bar.
        self._bar.update(self._task, total=total, completed=done, rate=rate)


@contextmanager
def _bar(console: Terminal) -> Iterator[_Bar]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)


class _StepHandler(logging.Handler):
    def __init__(self, display: _Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.begin(record.getMessage())


@contextmanager
def _steps_shown(display: _Display, *, are_logged: bool) -> Iterator[None]:
    """Shows the steps of a command on its display, and logs them only if asked for."""
    handler, before = _StepHandler(display), (STEPS.level, STEPS.propagate)
    STEPS.addHandler(handler)
    STEPS.propagate = are_logged
    STEPS.setLevel(logging.INFO)
    try:
        yield
    finally:
        STEPS.removeHandler(handler)
        STEPS.setLevel(before[0])
        STEPS.propagate = before[1]


def counts(option: str, text: str, most: int) -> list[int]:
    """Returns the counts in a text such as `1,4,8`.

    Args:
        option: name of the option for messages.
        text: value of the option.
        most: largest allowed count.

    Raises:
        ConfigError: if the text has another form, or more than 64 counts.
    """
    parts = text.split(",", _MAX_COUNTS)
    if len(parts) > _MAX_COUNTS:
        raise ConfigError(f"{option}: over {_MAX_COUNTS} counts")
    if not all(_is_count(part.strip(), most) for part in parts):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise ConfigError(f"{option} {shown}: expected counts such as 1,4,8, up to {most}")
    return [int(part) for part in parts]


def _is_count(text: str, most: int) -> bool:
    # Python refuses to parse integers of thousands of digits.
    return text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most
