"""The boundary to the terminal: what is written there is readable text, and never fails a run.

Names of files, keys and tensors come from strangers. Three ways lead to a terminal, and each is
closed once: tables and lines of rich (`Terminal`), the streams that everything else writes to
(`guarded_streams`), and log records (`start_logging`).
"""

import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EPIPE
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from distributed_pose.errors import ExecutionError, printable
from distributed_pose.locations import redacted

# Where lines are composed by this program, these are its own.
_LAYOUT = "\n\t"


class Terminal(Console):
    """A console of rich that takes strings as they are: no markup, no emoji, no control codes.

    Args:
        stderr: whether to write there.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a text of one line; every string in a table comes through here."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yields the parts of what is shown, those that did not begin as strings included."""
        for segment in super().render(renderable, options):
            is_own = segment.control or segment.text.isprintable()
            yield segment if is_own else segment._replace(text=printable(segment.text, _LAYOUT))


def print_line(text: str, *, err: bool = False) -> None:
    """Prints one line; line breaks in names are escaped."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{printable(text)}\n")


def print_text(text: str) -> None:
    """Prints lines, with their line breaks."""
    sys.stdout.write(text)


def start_logging(*, verbose: bool = False) -> None:
    """Has warnings written to stderr, a line each, those of libraries among them.

    Args:
        verbose: whether to write also what is done.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(logging.BASIC_FORMAT))
    logging.basicConfig(handlers=[handler])
    if verbose:
        logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Makes stdout and stderr fit for any text and any end of the terminal, as long as entered.

    Characters that their encoding lacks become others, control characters become escapes, and a
    reader that leaves early is no error.

    Raises:
        ExecutionError: if stdout cannot be written, as on a full disk.
    """
    # Ray writes its prefixes in colour otherwise, which the streams would show as escapes.
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    before = sys.stdout, sys.stderr
    out, err = _Guarded(_opened(sys.stdout), is_result=True), _Guarded(_opened(sys.stderr))
    sys.stdout, sys.stderr = cast("TextIO", _Readable(out)), cast("TextIO", _Readable(err))
    try:
        yield
        out.flush()
    finally:
        sys.stdout, sys.stderr = before


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = printable(redacted(record.message.rstrip("\n")))
        return super().formatMessage(record)


class _Guarded:
    """Drops what is written to a stream whose reader has gone.

    Args:
        stream: to write to.
        is_result: whether it is an error when it cannot be written; else a message is lost.
    """

    def __init__(self, stream: TextIO, *, is_result: bool = False) -> None:
        self._stream = stream
        self._is_result = is_result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._failing():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._failing():
            self._stream.flush()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is left in the buffer would else fail once more when Python exits.
            _lead_nowhere(self._stream)
            if self._is_result and error.errno != EPIPE:
                raise ExecutionError(f"cannot write to stdout: {error.strerror}") from None


class _Readable(_Guarded):
    """A guarded stream on which control characters are escapes.

    Rich writes to the stream below, under the name that its own proxies have.
    """

    def __init__(self, stream: _Guarded) -> None:
        super().__init__(cast("TextIO", stream))
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        return self.rich_proxied_file.write(printable(text, _LAYOUT))


def _opened(stream: TextIO | None) -> TextIO:
    # Python has None in place of a stream that was closed before it started.
    if stream is None:
        return Path(os.devnull).open("w")
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
        stream.reconfigure(errors="replace")
    return stream


def _lead_nowhere(stream: TextIO) -> None:
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    # Not every stream is a file.
    except (OSError, ValueError):
        return
