"""The main command: `evaluate`."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from distributed_pose.cli.options import AsJson, ConfigFile, Overrides, Verbose
from distributed_pose.cli.progress import RunBar, run_progress
from distributed_pose.cli.supervise import SUM_UP, tell_output
from distributed_pose.cli.terminal import Terminal, print_line, print_text, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.errors import ExecutionError
from distributed_pose.files.local import new_run_folder, point_latest_at
from distributed_pose.locations import Location, redacted

_NAME = "distributed-pose"

_RUNS = Path("runs")


def evaluate(  # noqa: PLR0913 - one argument an option
    *,
    config: ConfigFile = None,
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder of the run, a path or a URI. A run that was interrupted in it is resumed.",
            show_default="a new folder in runs, which runs/latest leads to",
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Delete the results of a run that the folder holds, and start again."
        ),
    ] = False,
    allow_failures: Annotated[
        int | None,
        typer.Option(
            "--allow-failures",
            metavar="N",
            help="Number of images that may fail in a complete run; sets allow_failures.",
        ),
    ] = None,
    dump_maps: Annotated[
        str | None,
        typer.Option(
            "--dump-maps",
            metavar="DIR",
            help="Folder to write the maps of every image to; sets dump_maps.",
        ),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    ended_by: Annotated[str | None, typer.Option(SUM_UP, hidden=True)] = None,
) -> None:
    """Evaluate COCO keypoints on all devices: AP, wall-clock and compute-only throughput."""
    start_logging(verbose=verbose)
    if allow_failures is not None:
        overrides = [*(overrides or ()), f"allow_failures={allow_failures}"]
    if dump_maps is not None:
        # YAML reads JSON, so a quoted name may contain any characters.
        overrides = [*(overrides or ()), f"dump_maps={json.dumps(dump_maps)}"]
    settings = load_config(config, overrides or ())
    from distributed_pose.evaluation import evaluate as run
    from distributed_pose.evaluation import sum_up
    from distributed_pose.report.tables import run_tables

    folder = Location(output or new_run_folder(_RUNS))
    tell_output(folder.plain)
    again = _command(config, overrides or (), folder)
    if ended_by:
        told = sum_up(settings, folder, config_file=config).unscored
        raise ExecutionError(f"the process ended by {ended_by}; {told}", f"go on with: {again}")
    own = None if output else folder
    with _removed_if_empty(own), run_progress(shown=not as_json) as bar, _resumable(bar, again):

        def on_progress(total: int, done: int) -> None:
            if not output and bar.total is None:
                point_latest_at(Path(folder.plain))
            bar(total, done)

        report = run(settings, folder, on_progress, restart=restart, config_file=config)
    if as_json:
        print_text(report.to_json())
    else:
        Terminal().print(*run_tables(report), f"Written to {folder}", sep="\n")
    if not report.is_usable:
        print_line(f"try the failed images again: {again}", err=True)
        raise typer.Exit(ExecutionError.exit_code)


@contextmanager
def _removed_if_empty(folder: Location | None) -> Iterator[None]:
    """Removes the folder of a run that fails before it writes into the folder.

    Args:
        folder: folder to remove; None to keep the user's own folder.
    """
    try:
        yield
    except BaseException:
        if folder:
            with suppress(OSError):
                Path(folder.plain).rmdir()
        raise


@contextmanager
def _resumable(bar: RunBar, again: str) -> Iterator[None]:
    """Adds the command that resumes the run to the error of a run that is stopped or fails.

    Args:
        bar: progress of the run.
        again: command that resumes the run.

    Raises:
        ExecutionError: if the run is stopped by the user or fails.
    """
    try:
        yield
    except KeyboardInterrupt:
        done = f"{bar.done} of {bar.total} images are done" if bar.total else "nothing is done yet"
        raise ExecutionError(f"stopped, {done}", f"go on with: {again}") from None
    except ExecutionError as error:
        error.hint = "; ".join(filter(None, (error.hint, f"go on with: {again}")))
        raise


def _command(config: Path | None, overrides: Iterable[str], output: Location) -> str:
    """Returns the command line that resumes a run, with `***` in place of credentials."""
    # The path is kept as called, since a virtual environment's commands may not be in PATH.
    called = sys.argv[0] if Path(sys.argv[0]).name == _NAME else _NAME
    words = [called, "evaluate", *(["--config", str(config)] if config else [])]
    for override in overrides:
        words += ["--set", redacted(override)]
    return shlex.join([*words, "--output", str(output)])
