"""The command line: parse, call, map errors to exit codes."""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.text import Text

from distributed_pose import __version__
from distributed_pose.cli.bench import batch_sizes, bench
from distributed_pose.cli.cache import cache
from distributed_pose.cli.config import config as config_commands
from distributed_pose.cli.data import demo_data, fetch, pack
from distributed_pose.cli.doctor import devices, doctor
from distributed_pose.cli.guide import guide
from distributed_pose.cli.report import report as report_commands
from distributed_pose.cli.scale import plan, scale
from distributed_pose.cli.supervise import SUM_UP, tell_output
from distributed_pose.cli.terminal import (
    Terminal,
    guarded_streams,
    print_line,
    print_text,
    start_logging,
)
from distributed_pose.config.loading import load_config
from distributed_pose.errors import (
    ConfigError,
    ExecutionError,
    PoseEvalError,
    SetupError,
    printable,
)
from distributed_pose.files.local import check_not_input, new_run_folder, point_latest_at
from distributed_pose.locations import Location, redacted

app = typer.Typer(
    help="How accurate is a pose model on your devices, and how fast do they run it together?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


_NAME = "distributed-pose"

# Set to show where in the code an error came up that no part of it expects.
_TRACEBACK = "DISTRIBUTED_POSE_TRACEBACK"

# Typer brings the parser's exceptions without a public name; older versions take click's.
_UsageError: Any = typer.BadParameter.__mro__[2]

_RUNS = Path("runs")

_Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.yaml", help="What to run; defaults where left out."),
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; repeatable."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print the report alone, as JSON.")]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show logs, also those of Ray.")]


def main() -> NoReturn:
    """Runs the command and exits: 0 done, 2 usage, 3 set-up, 4 execution or incomplete run."""
    try:
        with guarded_streams():
            code = _exit_code()
    except ExecutionError as error:
        with guarded_streams():
            _show_error(error)
        code = error.exit_code
    sys.exit(code)


def _exit_code() -> int:
    """Returns the exit code of the command, which has said in one line what went wrong."""
    try:
        # The code of a command that ends early; None of one that runs through.
        code: int | None = app(standalone_mode=False)
    except PoseEvalError as error:
        return _show_error(error)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            # The help is there already.
            return ConfigError.exit_code
        path = error.ctx.command_path if error.ctx else _NAME
        # Its lists of choices have a line each.
        message = error.format_message().replace("\n\t", " ")
        return _show_error(ConfigError(message, f"see `{path} --help`"))
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        what = f"{type(error).__name__}: {error}"
        hint = f"please report it, with what {_TRACEBACK}=1 in the environment shows"
        return _show_error(ExecutionError(f"this is a bug in {_NAME}: {what}", hint))
    return code or 0


def _show_error(error: PoseEvalError) -> int:
    # Of one line, whatever is in the names.
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
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    del version  # Its callback has ended the command.
    start_logging()


@app.command()
def evaluate(  # noqa: PLR0913 - one argument an option
    *,
    config: _Config = None,
    overrides: _Set = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder of the run, a path or a URI; a run that was cut short is taken up again.",
            show_default="a new one in runs, and runs/latest leads to it",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start anew in a folder that holds a run.")
    ] = False,
    allow_failures: Annotated[
        int | None,
        typer.Option("--allow-failures", metavar="N", help="As --set allow_failures=N."),
    ] = None,
    dump_maps: Annotated[
        str | None,
        typer.Option("--dump-maps", metavar="DIR", help="As --set dump_maps=DIR."),
    ] = None,
    as_json: _Json = False,
    verbose: _Verbose = False,
    ended_by: Annotated[str | None, typer.Option(SUM_UP, hidden=True)] = None,
) -> None:
    """Evaluate COCO keypoints on all devices: AP, wall-clock and compute-only throughput."""
    start_logging(verbose=verbose)
    if allow_failures is not None:
        overrides = [*(overrides or ()), f"allow_failures={allow_failures}"]
    if dump_maps is not None:
        # As JSON, which YAML reads, whatever is in the name.
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
    with _removed_if_empty(own), _progress(shown=not as_json) as bar, _resumable(bar, again):

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


app.command("devices")(devices)
app.command("doctor")(doctor)


@app.command()
def export(
    *,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx")],
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 11,
    last_stage: Annotated[
        bool, typer.Option("--last-stage", help="Write the outputs of the last stage alone.")
    ] = False,
    refinement_stages: Annotated[
        int, typer.Option(help="Refinement stages of the network.", min=1, max=3)
    ] = 1,
) -> None:
    """Write a Lightweight OpenPose checkpoint as ONNX for compilers."""
    from distributed_pose.files.local import write_atomically
    from distributed_pose.model.artifacts import load_source
    from distributed_pose.model.checkpoint import load_checkpoint
    from distributed_pose.model.export import export_onnx

    check_not_input(output, {"the checkpoint": checkpoint})
    source = load_source(checkpoint, refinement_stages)
    if source.format != "pth":
        raise SetupError(f"{checkpoint} is no checkpoint", "give the checkpoint to export")
    _tell(source.notes)
    weights = load_checkpoint(source.content, source.path, refinement_stages).weights
    content = export_onnx(
        weights, refinement_stages=refinement_stages, opset=opset, last_stage=last_stage
    )
    write_atomically(output, content)
    print_line(f"Written to {output}: {len(content) / 1e6:.1f} MB, opset {opset}")


@app.command("compile")
def compile_(  # noqa: PLR0913 - one argument an option
    *,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file or checkpoint.")],
    target: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="TARGET",
            help="ascend310, ascend310p3, ..., tensorrt, cuda, torch, cann, openvino, onnxruntime.",
        ),
    ],
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1",
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="One .om for all batch sizes.")
    ] = False,
    precision: Annotated[str | None, typer.Option(help="As --set precision=.")] = None,
    profile: Annotated[str | None, typer.Option(help="As --set profile=.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Copy artifact and card there."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the vendor's commands and run none.")
    ] = False,
    config: _Config = None,
    overrides: _Set = None,
) -> None:
    """Compile a model for a device, once: the artifact and its card are kept by content."""
    given = {"precision": precision, "profile": profile}
    keys = [f"{key}={value}" for key, value in given.items() if value]
    settings = load_config(config, [*(overrides or ()), *keys])
    sizes = batch_sizes(batch)
    from distributed_pose.compilation import commands_for, compile_for, orders_for
    from distributed_pose.run.inputs import load_model

    orders = orders_for(target, settings.precision, settings.profile, sizes, dynamic=dynamic_batch)
    source = load_model(model, settings.profile, settings.model.refinement_stages)
    _tell(source.notes)
    if dry_run:
        print_text(f"{commands_for(source, orders)}\n")
        return
    for compiled in compile_for(source, orders, settings, output):
        card = compiled.artifact.card
        batches = ",".join(map(str, card["batch_sizes"]))
        details = f"batch {batches}, {card['bytes'] / 1e6:.1f} MB, {card['seconds']:.1f} s"
        print_line(f"{compiled.path}: {details}")
        if accuracy := card.get("accuracy"):
            print_line(", ".join(f"{name} {value}" for name, value in accuracy.items()))


@app.command()
def picture(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of an evaluation.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.jpg")],
    images: Annotated[int, typer.Option(help="Most images in it.", min=1, max=64)] = 4,
) -> None:
    """Draw the poses that a run found."""
    from distributed_pose.report.pictures import draw_run

    draw_run(run, output, images)
    print_line(f"Written to {output}")


# In the order of the help.
app.command("scale")(scale)
app.command("plan")(plan)
app.command("demo-data")(demo_data)
app.command("pack")(pack)
app.command("cache")(cache)
app.add_typer(bench)
app.add_typer(report_commands)
app.add_typer(guide)
app.add_typer(fetch)
app.add_typer(config_commands)


class _Bar:
    """A progress bar with images a second.

    Attributes:
        total: images of the run; None until its devices are ready.
        done: images that are settled.
    """

    def __init__(self, bar: ProgressBar) -> None:
        self.total: int | None = None
        self.done = 0
        self._bar = bar
        self._task = bar.add_task("starting devices", total=None, rate="")
        self._start = monotonic()
        self._done_before = 0

    def __call__(self, total: int, done: int) -> None:
        if self.total is None:
            self._start, self._done_before = monotonic(), done
        self.total, self.done = total, done
        elapsed_s, new = monotonic() - self._start, done - self._done_before
        rate = f"{new / elapsed_s:.1f} images/s" if new and elapsed_s else ""
        self._bar.update(self._task, description="at work", total=total, completed=done, rate=rate)


@contextmanager
def _progress(*, shown: bool) -> Iterator[_Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # On stderr, so that stdout holds results alone; a log file gets none of it.
    console = Terminal(stderr=True)
    hidden = not (shown and console.is_terminal)
    with ProgressBar(*columns, console=console, transient=True, disable=hidden) as bar:
        yield _Bar(bar)


@contextmanager
def _removed_if_empty(folder: Location | None) -> Iterator[None]:
    """Leaves no folder of a run that did not come to write into it."""
    try:
        yield
    except BaseException:
        if folder:
            with suppress(OSError):
                Path(folder.plain).rmdir()
        raise


@contextmanager
def _resumable(bar: _Bar, again: str) -> Iterator[None]:
    """Tells how to go on with a run that is stopped or cannot go on."""
    try:
        yield
    except KeyboardInterrupt:
        done = f"{bar.done} of {bar.total} images are done" if bar.total else "nothing is done yet"
        raise ExecutionError(f"stopped, {done}", f"go on with: {again}") from None
    except ExecutionError as error:
        error.hint = "; ".join(filter(None, (error.hint, f"go on with: {again}")))
        raise


def _command(config: Path | None, overrides: Iterable[str], output: Location) -> str:
    """Returns the command line that takes a run up again, with `***` in place of credentials."""
    # As it was called, since a virtual environment's commands need not be in the PATH.
    called = sys.argv[0] if Path(sys.argv[0]).name == _NAME else _NAME
    words = [called, "evaluate", *(["--config", str(config)] if config else [])]
    for override in overrides:
        words += ["--set", redacted(override)]
    return shlex.join([*words, "--output", str(output)])


def _tell(notes: Iterable[str]) -> None:
    """Prints notes on a model beside the results, which others may read."""
    for note in notes:
        print_line(note, err=True)
