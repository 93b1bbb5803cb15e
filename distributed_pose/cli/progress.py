"""The progress bars and the option with a list of counts, which several commands share."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from time import monotonic

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from distributed_pose.cli.terminal import Terminal
from distributed_pose.engine.steps import STEPS
from distributed_pose.errors import ConfigError

# The number of counts is limited, because each means a separate measurement or artifact.
_MAX_COUNTS = 64
_SHOWN = 100


class RunBar:
    """A progress bar with the number of images per second.

    Attributes:
        total: number of images in the run; None until its devices are ready.
        done: number of images that have a result or are recorded failures.
    """

    def __init__(self, bar: Progress) -> None:
        self.total: int | None = None
        self.done = 0
        self._bar = bar
        self._task = bar.add_task("starting devices", total=None, rate="")
        self._start = monotonic()
        self._done_before = 0

    def show_step(self, description: str) -> None:
        """Shows the step that the start of the run is at."""
        self._bar.update(self._task, description=description)

    def __call__(self, total: int, done: int) -> None:
        if self.total is None:
            self._start, self._done_before = monotonic(), done
        self.total, self.done = total, done
        elapsed_s, new = monotonic() - self._start, done - self._done_before
        rate = f"{new / elapsed_s:.1f} images/s" if new and elapsed_s else ""
        self._bar.update(
            self._task, description="evaluating", total=total, completed=done, rate=rate
        )


@contextmanager
def run_progress(*, shown: bool) -> Iterator[RunBar]:
    """Yields the progress bar of a run, which is shown only on a terminal.

    Args:
        shown: whether the bar is shown if standard error is a terminal.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # The bar is on stderr, so that stdout holds only results. A log file gets no bar.
    console = Terminal(stderr=True)
    hidden = not (shown and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        run_bar = RunBar(bar)
        with nullcontext() if hidden else _steps_shown(run_bar):
            yield run_bar


class _StepHandler(logging.Handler):
    def __init__(self, bar: RunBar) -> None:
        super().__init__()
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        self._bar.show_step(record.getMessage())


@contextmanager
def _steps_shown(bar: RunBar) -> Iterator[None]:
    """Shows the steps of a run's start in its progress bar; they are logged only if asked for."""
    handler, before = _StepHandler(bar), (STEPS.level, STEPS.propagate)
    STEPS.addHandler(handler)
    STEPS.propagate = STEPS.isEnabledFor(logging.INFO)
    STEPS.setLevel(logging.INFO)
    try:
        yield
    finally:
        STEPS.removeHandler(handler)
        STEPS.setLevel(before[0])
        STEPS.propagate = before[1]


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (total, done) that shows a progress bar, but only on a terminal."""
    console = Terminal(stderr=True)
    columns = TextColumn("working"), BarColumn(), MofNCompleteColumn()
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        task = bars.add_task("", total=None)
        yield lambda total, done: bars.update(task, total=total, completed=done)


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
