"""Only printable text reaches a terminal, and closed or full streams do not fail a command."""

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from distributed_pose.cli.terminal import (
    Terminal,
    guarded_streams,
    print_line,
    print_text,
    start_logging,
)
from distributed_pose.errors import ExecutionError, printable

# Escape sequences of 7 and 8 bits, bell, backspace, carriage return, marks of writing direction,
# line breaks of Unicode, and a lone surrogate.
HOSTILE = "a\x1b[31mb\x9b2Jc\ad\be\rf\u202eg\u2066h\u2028i\x00j\x7fk\udc80l"


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@given(st.text(st.characters(codec=None)))
def test_a_printable_text_has_no_control_characters_and_is_not_changed_again(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert not set("\x1b\x9b\a\b\r\n\u202e\u2066\u2028\x00\x7f") & set(shown)
    assert printable(text, "\n").count("\n") == text.count("\n")


@pytest.mark.parametrize("text", ["plain", "ünï/图.png", "a\u3000b", "[red]", "🏃", ""])
def test_text_of_any_language_is_not_changed(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    "show",
    [
        lambda: Terminal().print(HOSTILE),
        lambda: Terminal().print(Text(HOSTILE)),
        lambda: Terminal().print(Table(HOSTILE, title=HOSTILE, caption=HOSTILE)),
        lambda: Terminal().print(table_of(HOSTILE)),
        lambda: print_line(HOSTILE),
        lambda: print_line(HOSTILE, err=True),
        lambda: print_text(HOSTILE),
        lambda: print(HOSTILE),  # noqa: T201
        lambda: print(HOSTILE, file=sys.stderr),  # noqa: T201
        lambda: sys.stderr.writelines([HOSTILE, "\n"]),
        lambda: logging.getLogger("test").handlers[0].emit(record(HOSTILE)),
    ],
)
def test_no_control_character_reaches_the_terminal(
    show: Callable[[], object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with guarded_streams():
        handler = logging.StreamHandler()
        monkeypatch.setattr(logging.getLogger("test"), "handlers", [handler])
        show()
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "\\u001b[31mb" in text
    assert is_clean(text.replace("\t", ""))


def table_of(cell: str) -> Table:
    table = Table("name")
    table.add_row(cell)
    return table


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.WARNING, "", 0, "%s", (message,), None)


def test_names_are_not_interpreted_as_markup_or_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().print("[red]a[/red] :warning:")
    assert capsys.readouterr().out == "[red]a[/red] :warning:\n"


def test_a_log_record_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    with guarded_streams():
        start_logging()
        logging.getLogger("test").warning("cannot read %s", "a\nERROR:root:b")
    assert capsys.readouterr().err == "WARNING:test:cannot read a\\nERROR:root:b\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "cp437"])
def test_a_character_that_the_encoding_lacks_is_replaced(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors="strict"))
    with guarded_streams():
        Terminal().print("a · b 🏃")
        print_line("c 图 🏃")
    assert raw.getvalue().startswith(b"a ")
    assert b"?\nc " in raw.getvalue()


class Broken(io.StringIO):
    """A stream on which every write fails with the given error code."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    def write(self, _text: str) -> int:
        raise OSError(self._code, os.strerror(self._code))


def test_a_reader_that_closes_early_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(32))
    with guarded_streams():
        print_line("a")
        Terminal().print("b")


def test_a_failed_write_is_an_error_on_stdout_but_not_on_stderr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(28))
    with guarded_streams(), pytest.raises(ExecutionError, match="cannot write to stdout: No space"):
        print_line("a")
    monkeypatch.setattr(sys, "stderr", Broken(28))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with guarded_streams():
        print_line("a", err=True)


COMMAND = [sys.executable, "-m", "distributed_pose", "report", "table", "--reference", "guide"]


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("{} > /dev/null", 0),
        ("{} >&-", 0),
        ("{} 2>&- > /dev/null", 0),
        ("PYTHONIOENCODING=ascii {} > /dev/null", 0),
        ("LC_ALL=C PYTHONUTF8=0 {} > /dev/null", 0),
        ("PYTHONIOENCODING=gbk {} > /dev/null", 0),
        ("set -o pipefail; {} | true", 0),
        ("{} > /dev/full", 4),
        ("{} --nonsense 2> /dev/full", 2),
    ],
)
def test_the_exit_code_of_a_command_reflects_only_a_failed_write_of_its_result(
    shell: str, code: int
) -> None:
    command = shell.format(" ".join(COMMAND))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_usage_error_is_one_line_without_control_characters(tmp_path: Path) -> None:
    for arguments in (["evaluate", "--x\x1b[31m"], ["\x1b]0;a\a"], ["plan", "--devices", "\u202e"]):
        done = subprocess.run(
            [*COMMAND[:3], *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert is_clean(done.stderr)
        assert done.stderr.count("\n") == 1


def test_a_warning_of_a_library_is_logged_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("py.warnings"), "handlers", [])
    with guarded_streams(), warnings.catch_warnings():
        warnings.simplefilter("always")
        # Undoes the state of earlier tests, whose handlers pytest has removed.
        logging.captureWarnings(capture=False)
        start_logging()
        warnings.warn("a\x1b[31m\nb", stacklevel=1)
        logging.captureWarnings(capture=False)
    err = capsys.readouterr().err
    assert err.startswith("WARNING:py.warnings:")
    assert "UserWarning: a\\u001b[31m\\nb" in err
    assert err.count("\n") == 1
