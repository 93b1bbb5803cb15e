"""Writes to the terminal: only printable text, and without ever failing a run.

Names of files, keys and tensors come from untrusted input. Output takes one of three ways, and each
has one guard: tables and lines of rich (`Terminal`), the streams that all other code writes to
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

from distributed_pose.errors import ConfigError, ExecutionError, printable
from distributed_pose.locations import redacted

# Control characters that this program itself uses to lay out lines.
_LAYOUT = "\n\t"


class Terminal(Console):
    """A console of rich that prints strings literally: no markup, no emoji, no control codes.

    Args:
        stderr: whether to write to stderr and not to stdout.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a text of one line; rich calls it for every string in a table."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yields the printable segments of an object, including those not made from strings."""
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


def start_logging(*, verbose: bool = False, quiet: bool = False) -> None:
    """Starts to log warnings to stderr, one line per warning, including those of libraries.

    Args:
        verbose: whether to log information as well.
        quiet: whether to log only errors, and to show no progress.

    Raises:
        ConfigError: if it should be both.
    """
    if verbose and quiet:
        raise ConfigError("--verbose and --quiet exclude each other", "give one of them")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(logging.BASIC_FORMAT))
    logging.basicConfig(handlers=[handler])
    level = logging.ERROR if quiet else logging.WARNING
    logging.getLogger().setLevel(logging.INFO if verbose else level)
    logging.captureWarnings(capture=True)


def is_quiet() -> bool:
    """Returns whether `--quiet` was given, so that only errors are shown."""
    return not logging.getLogger().isEnabledFor(logging.WARNING)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Replaces stdout and stderr, within the `with` block, by streams that accept any text.

    Characters that the encoding lacks are replaced, control characters are escaped, and a reader
    that closes early is not an error.

    Raises:
        ExecutionError: if stdout cannot be written, for example on a full disk.
    """
    # Otherwise Ray writes coloured prefixes, which these streams would show as escapes.
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
    """Writes to a stream, and drops the text if its reader has closed it.

    Args:
        stream: stream to write to.
        is_result: whether a failed write is an error; otherwise the text is lost silently.
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
            # Otherwise the rest of the buffer would fail again when Python exits.
            _redirect_to_null(self._stream)
            if self._is_result and error.errno != EPIPE:
                raise ExecutionError(f"cannot write to stdout: {error.strerror}") from None


class _Readable(_Guarded):
    """Escapes control characters in the text for a guarded stream.

    Rich writes to the wrapped stream directly, under the attribute of its own proxies.
    """

    def __init__(self, stream: _Guarded) -> None:
        super().__init__(cast("TextIO", stream))
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        return self.rich_proxied_file.write(printable(text, _LAYOUT))


def _opened(stream: TextIO | None) -> TextIO:
    # Python sets a stream to None if it was closed before the program started.
    if stream is None:
        return Path(os.devnull).open("w")
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
        stream.reconfigure(errors="replace")
    return stream


def _redirect_to_null(stream: TextIO) -> None:
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    # Some streams have no file descriptor.
    except (OSError, ValueError):
        return
