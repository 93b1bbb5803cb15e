"""The command line: parses arguments, calls the commands, and maps errors to exit codes."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from distributed_pose import __version__
from distributed_pose.cli.bench import bench
from distributed_pose.cli.cache import cache
from distributed_pose.cli.compare import compare
from distributed_pose.cli.config import config as config_commands
from distributed_pose.cli.data import demo_data, fetch, pack
from distributed_pose.cli.doctor import devices, doctor
from distributed_pose.cli.evaluate import evaluate
from distributed_pose.cli.guide import guide
from distributed_pose.cli.model import compile_, export
from distributed_pose.cli.picture import picture
from distributed_pose.cli.report import report as report_commands
from distributed_pose.cli.scale import plan, scale
from distributed_pose.cli.score import score
from distributed_pose.cli.sweep import sweep
from distributed_pose.cli.terminal import (
    Terminal,
    guarded_streams,
    print_line,
    start_logging,
)
from distributed_pose.errors import (
    ConfigError,
    ExecutionError,
    PoseEvalError,
    printable,
)

app = typer.Typer(
    help="How accurate is a pose model on your devices, and how fast do they run it together?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


_NAME = "distributed-pose"

# If this variable is set, an unexpected exception is shown with its traceback.
_TRACEBACK = "DISTRIBUTED_POSE_TRACEBACK"

# Typer's result for a command that Ctrl-C has ended before the command could handle it.
_INTERRUPTED = 130

# Typer has its own copy of the parser's exceptions without a public name; older versions use
# click's.
_UsageError: Any = typer.BadParameter.__mro__[2]


def main() -> NoReturn:
    """Runs the command, and exits with its exit code.

    The codes are 0 for success, 2 for usage, 3 for set-up, 4 for execution or an incomplete run,
    and 5 for a figure that does not reach its gate.
    """
    try:
        with guarded_streams():
            code = _exit_code()
    except ExecutionError as error:
        with guarded_streams():
            _show_error(error)
        code = error.exit_code
    sys.exit(code)


def _exit_code() -> int:
    """Runs the command, shows its error if there is one, and returns its exit code."""
    try:
        # The result is the exit code of a command that ends early; None if it runs to its end.
        code: int | None = app(standalone_mode=False)
    except PoseEvalError as error:
        return _show_error(error)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            # The help has been printed already.
            return ConfigError.exit_code
        path = error.ctx.command_path if error.ctx else _NAME
        # The message has one line per choice, and an error is shown as one line.
        message = error.format_message().replace("\n\t", " ")
        return _show_error(ConfigError(message, f"see `{path} --help`"))
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        what = f"{type(error).__name__}: {error}"
        hint = f"please report it, with what {_TRACEBACK}=1 in the environment shows"
        return _show_error(ExecutionError(f"this is a bug in {_NAME}: {what}", hint))
    return _show_error(ExecutionError("stopped")) if code == _INTERRUPTED else code or 0


def _show_error(error: PoseEvalError) -> int:
    # Names can contain line breaks, and an error is shown as one line.
    line = Text.assemble(("error:", "red"), " ", printable(str(error)))
    Terminal(stderr=True).print(line, soft_wrap=True)
    return error.exit_code


def _show_version(value: bool) -> None:  # noqa: FBT001
    if value:
        print_line(f"distributed-pose {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    del version  # Its callback has ended the command.
    start_logging()


# The help lists the commands in this order.
app.command("evaluate")(evaluate)
app.command("devices")(devices)
app.command("doctor")(doctor)
app.command("export")(export)
app.command("compile")(compile_)
app.command("compare")(compare)
app.command("score")(score)
app.command("picture")(picture)
app.command("scale")(scale)
app.command("plan")(plan)
app.command("sweep")(sweep)
app.command("demo-data")(demo_data)
app.command("pack")(pack)
app.command("cache")(cache)
app.add_typer(bench)
app.add_typer(report_commands)
app.add_typer(guide)
app.add_typer(fetch)
app.add_typer(config_commands)
