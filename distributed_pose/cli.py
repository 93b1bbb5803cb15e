"""The command line: parse, call, map errors to exit codes."""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from distributed_pose import __version__
from distributed_pose.cli_bench import bench
from distributed_pose.cli_fetch import fetch
from distributed_pose.config import load_config
from distributed_pose.errors import ExecutionError, PoseEvalError

app = typer.Typer(
    help="How accurate is a pose model on your devices, and how fast do they run it together?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(bench)
app.add_typer(fetch)

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


def main() -> None:
    """Runs the command and exits: 0 done, 2 usage, 3 set-up, 4 execution or incomplete run."""
    try:
        app()
    except PoseEvalError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


def _show_version(value: bool) -> None:  # noqa: FBT001
    if value:
        typer.echo(f"distributed-pose {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


@app.command()
def evaluate(
    *,
    config: _Config = None,
    overrides: _Set = None,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder for the run's files.")
    ] = Path("runs/latest"),
    as_json: _Json = False,
    verbose: _Verbose = False,
) -> None:
    """Evaluate COCO keypoints on all devices: AP, wall-clock and compute-only throughput."""
    _log(verbose=verbose)
    settings = load_config(config, overrides or ())
    from distributed_pose.evaluation import evaluate as run
    from distributed_pose.report.tables import run_tables

    with _progress(shown=not as_json) as on_progress:
        report = run(settings, output, on_progress)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        Console().print(*run_tables(report), f"Written to {escape(str(output))}", sep="\n")
    if not report.complete:
        raise typer.Exit(ExecutionError.exit_code)


@app.command()
def devices(*, config: _Config = None, overrides: _Set = None, verbose: _Verbose = False) -> None:
    """List the devices that an evaluation would use."""
    _log(verbose=verbose)
    settings = load_config(config, overrides or ())
    from distributed_pose.evaluation import planned_devices
    from distributed_pose.report.tables import device_table

    Console().print(device_table(*planned_devices(settings)))


@app.command()
def export(
    *,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT.pth")],
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx")],
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 11,
    last_stage: Annotated[
        bool, typer.Option("--last-stage", help="Leave out the outputs of the initial stage.")
    ] = False,
) -> None:
    """Write a Lightweight OpenPose checkpoint as ONNX, checked against PyTorch."""
    from distributed_pose.files import write_atomically
    from distributed_pose.model.checkpoint import load_checkpoint
    from distributed_pose.model.export import export_onnx

    content = export_onnx(load_checkpoint(checkpoint), opset=opset, last_stage=last_stage)
    write_atomically(output, content)
    typer.echo(f"Written to {output}: {len(content) / 1e6:.1f} MB, opset {opset}, equal to PyTorch")


@app.command()
def picture(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of an evaluation.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.jpg")],
    images: Annotated[int, typer.Option(help="Most images in it.", min=1)] = 4,
) -> None:
    """Draw the poses that a run found."""
    from distributed_pose.report.pictures import draw_run

    draw_run(run, output, images)
    typer.echo(f"Written to {output}")


@app.command("demo-data")
def demo_data(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    images: Annotated[int, typer.Option(help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="Other seeds give other images.")] = 0,
) -> None:
    """Render a COCO keypoint dataset of any size, the same from the same seed."""
    demo = importlib.import_module("distributed_pose.demo.dataset")
    with _progress(shown=True) as on_progress:
        on_progress(images, 0)
        written = demo.write_dataset(folder, images, seed, lambda done: on_progress(images, done))
    typer.echo(f"--set data.images={written.images} --set data.annotations={written.annotations}")


class _Bar:
    """A progress bar with images a second."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting devices", total=None, rate="")
        self._start = monotonic()

    def __call__(self, total: int, done: int) -> None:
        if done == 0:
            self._start = monotonic()
        elapsed_s = monotonic() - self._start
        rate = f"{done / elapsed_s:.1f} images/s" if done and elapsed_s else ""
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
    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    with ProgressBar(*columns, console=console, transient=True, disable=hidden) as bar:
        yield _Bar(bar)


def _log(*, verbose: bool) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING)
