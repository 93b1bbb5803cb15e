"""The main command: `evaluate`."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.cli import gates
from distributed_pose.cli.options import AsJson, ConfigFile, Overrides, Quiet, Verbose
from distributed_pose.cli.progress import RunProgress, run_progress
from distributed_pose.cli.supervise import SUM_UP, report_output
from distributed_pose.cli.terminal import Terminal, print_line, print_text, start_logging
from distributed_pose.cli.tracing import TraceFile, check_trace, traced
from distributed_pose.config.loading import load_config
from distributed_pose.config.schema import RunConfig
from distributed_pose.errors import ExecutionError
from distributed_pose.files.run_folders import new_run_folder, point_latest_at
from distributed_pose.locations import Location, redacted

if TYPE_CHECKING:
    from distributed_pose.report.run_report import RunReport
    from distributed_pose.run.state import RunState

_NAME = "distributed-pose"

_RUNS = Path("runs")


_Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder of the run, a path or a URI. If it holds an interrupted run, that run is "
        "resumed.",
        show_default="a new folder in runs, to which the link runs/latest points",
    ),
]
_Restart = Annotated[
    bool,
    typer.Option(
        "--restart", help="Delete the results in the run's folder, and evaluate all images again."
    ),
]
_AllowFailures = Annotated[
    int | None,
    typer.Option(
        "--allow-failures",
        metavar="N",
        help="Number of images that may fail in a complete run; sets allow_failures.",
    ),
]
_DumpMaps = Annotated[
    str | None,
    typer.Option(
        "--dump-maps",
        metavar="DIR",
        help="Folder to write the maps of every image to; sets dump_maps.",
    ),
]
_Label = Annotated[
    str | None,
    typer.Option("--label", metavar="TEXT", help="Text to recognise the run by; sets label."),
]
_Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Tracker to log the finished run to: mlflow, tensorboard or wandb; may be repeated. "
        "Sets track.",
    ),
]
_EndedBy = Annotated[str | None, typer.Option(SUM_UP, hidden=True)]


def evaluate(  # noqa: PLR0913 - one argument per option
    *,
    config: ConfigFile = None,
    overrides: Overrides = None,
    output: _Output = None,
    restart: _Restart = False,
    allow_failures: _AllowFailures = None,
    dump_maps: _DumpMaps = None,
    label: _Label = None,
    track: _Track = None,
    min_ap: gates.MinAp = None,
    min_images_per_s: gates.MinRate = None,
    baseline: gates.Baseline = None,
    tolerance: gates.Tolerance = None,
    rate_tolerance: gates.RateTolerance = None,
    trace: TraceFile = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    ended_by: _EndedBy = None,
) -> None:
    """Evaluate COCO keypoints on all devices: AP, wall-clock and compute-only throughput."""
    start_logging(verbose=verbose, quiet=quiet)
    keys = [*(overrides or ()), *_short_forms(allow_failures, dump_maps, label, track)]
    settings = load_config(config, keys)
    from distributed_pose.evaluation import evaluate as run

    check = gates.checks(min_ap, min_images_per_s, baseline, tolerance, rate_tolerance)
    check_trace(trace, {"--config": config, "model.path": settings.model.path})
    folder = Location(output or new_run_folder(_RUNS))
    report_output(folder.plain)
    resume_command = _command(config, keys, folder)
    if ended_by:
        raise _end_of_process(settings, folder, config, ended_by, resume_command)
    with (
        _removed_if_empty(None if output else folder),
        run_progress() as shown,
        _resumable(shown, resume_command),
    ):
        on_progress = shown if output else _linking_latest(shown, folder)
        with traced(trace, on_progress) as watch:
            report = run(settings, folder, watch, restart=restart, config_file=config)
    _show(report, folder, as_json=as_json)
    if not report.is_usable:
        print_line(f"try the failed images again: {resume_command}", err=True)
        raise typer.Exit(ExecutionError.exit_code)
    check(folder)


def _short_forms(
    allow_failures: int | None,
    dump_maps: str | None,
    label: str | None,
    track: list[str] | None,
) -> Iterator[str]:
    """Yields the configuration keys that options of the command set, in the form of `--set`."""
    if allow_failures is not None:
        yield f"allow_failures={allow_failures}"
    if dump_maps is not None:
        # YAML reads JSON, so a quoted name may contain any characters.
        yield f"dump_maps={json.dumps(dump_maps)}"
    if label is not None:
        yield f"label={json.dumps(label)}"
    if track:
        yield f"track={json.dumps(track)}"


def _end_of_process(
    settings: RunConfig,
    folder: Location,
    config_file: Path | None,
    ended_by: str,
    resume_command: str,
) -> ExecutionError:
    """Sums up a run whose process has ended, and returns the error that describes its end."""
    from distributed_pose.evaluation import sum_up

    outcome = sum_up(settings, folder, config_file=config_file).unscored
    return ExecutionError(
        f"the process ended by {ended_by}; {outcome}", f"resume with: {resume_command}"
    )


def _linking_latest(shown: RunProgress, folder: Location) -> "Callable[[RunState], None]":
    """Returns the progress of a run that also makes `runs/latest` point to it when it starts."""

    def on_progress(state: "RunState") -> None:
        if shown.state is None:
            point_latest_at(Path(folder.plain))
        shown(state)

    return on_progress


def _show(report: "RunReport", folder: Location, *, as_json: bool) -> None:
    if as_json:
        print_text(report.to_json())
        return
    from distributed_pose.report.tables import run_tables

    Terminal().print(*run_tables(report), f"Written to {folder}", sep="\n")


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
def _resumable(shown: RunProgress, resume_command: str) -> Iterator[None]:
    """Adds the command that resumes the run to the error of a run that is stopped or fails.

    Args:
        shown: progress of the run.
        resume_command: command that resumes the run.

    Raises:
        ExecutionError: if the run is stopped by the user or fails.
    """
    try:
        yield
    except KeyboardInterrupt:
        state = shown.state
        done = f"{state.done} of {state.total} images are done" if state else "no image is done yet"
        raise ExecutionError(f"stopped, {done}", f"resume with: {resume_command}") from None
    except ExecutionError as error:
        error.hint = "; ".join(filter(None, (error.hint, f"resume with: {resume_command}")))
        raise


def _command(config: Path | None, overrides: Iterable[str], output: Location) -> str:
    """Returns the command line that resumes a run, with `***` in place of credentials."""
    # The path is kept as called, since a virtual environment's commands may not be in PATH.
    called = sys.argv[0] if Path(sys.argv[0]).name == _NAME else _NAME
    words = [called, "evaluate", *(["--config", str(config)] if config else [])]
    for override in overrides:
        words += ["--set", redacted(override)]
    return shlex.join([*words, "--output", str(output)])
