"""What several commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Yields what shows so many of so many on a terminal, and nothing in a file."""
    console = Console(stderr=True)
    columns = TextColumn("at work"), BarColumn(), MofNCompleteColumn()
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        task = bars.add_task("", total=None)
        yield lambda total, done: bars.update(task, total=total, completed=done)
