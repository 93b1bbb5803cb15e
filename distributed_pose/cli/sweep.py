"""The command `sweep`: size, precision, batch size, devices and backend by accuracy and rate."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.cli import gates
from distributed_pose.cli.options import ConfigFile, Overrides, Quiet, Verbose
from distributed_pose.cli.progress import RunProgress, run_progress
from distributed_pose.cli.terminal import Terminal, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.engine.steps import step
from distributed_pose.errors import ConfigError, ExecutionError
from distributed_pose.files.storage import Folder
from distributed_pose.locations import Location
from distributed_pose.packages import require

if TYPE_CHECKING:
    from distributed_pose.bench.sweep.record import SweepRecord

# More characters than any sensible list has.
_MAX_LIST = 2000

_AGAIN = "enter the same command again to try them again"

_Inputs = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="SIZES", help="Sizes of the network input, such as 184x320,368x640."
    ),
]
_Precisions = Annotated[
    str | None, typer.Option("--precision", metavar="NAMES", help="Precisions, such as f32,int8.")
]
_Batches = Annotated[
    str | None, typer.Option("--batch", metavar="SIZES", help="Batch sizes, such as 1,8,auto.")
]
_Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="DEVICES",
        help="Devices, such as cpu:1,cuda:0; devices of one point are joined by +.",
    ),
]
_Backends = Annotated[
    str | None,
    typer.Option("--backend", metavar="NAMES", help="Backends, such as auto,onnxruntime."),
]
_Tolerance = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="AP by which a faster point may be less accurate and still end a slower one early.",
    ),
]
_Watts = Annotated[
    list[str] | None,
    typer.Option(
        "--watts",
        metavar="DEVICES=W",
        help="Power of devices in watts, where their driver does not measure it; may be repeated.",
    ),
]
_Prices = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="DEVICES=PRICE",
        help="Price of devices per hour, in any currency; may be repeated.",
    ),
]
_NoEarlyEnd = Annotated[
    bool, typer.Option("--no-early-end", help="Evaluate all images with every point.")
]
_Output = Annotated[
    str,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder of the sweep, a path or a URI, with a run folder per point. If it holds an "
        "interrupted sweep, that sweep is resumed.",
    ),
]


def sweep(  # noqa: PLR0913 - one argument per option
    *,
    inputs: _Inputs = None,
    precisions: _Precisions = None,
    batches: _Batches = None,
    devices: _Devices = None,
    backends: _Backends = None,
    min_ap: gates.MinAp = None,
    min_images_per_s: gates.MinRate = None,
    tolerance: _Tolerance = 0.0,
    watts: _Watts = None,
    price: _Prices = None,
    no_early_end: _NoEarlyEnd = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    output: _Output = "sweep",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find the size, precision, batch size and device with the accuracy and rate that you need.

    Evaluates all combinations of the listed values; a setting that is not listed is that of the
    configuration. Points that surely cannot win end early. Gates name the best point.
    """
    start_logging(verbose=verbose, quiet=quiet)
    settings = load_config(config, overrides or ())
    require("matplotlib", extra="plots", purpose="the plot of `sweep`")
    from distributed_pose.bench.sweep.flow import run_sweep
    from distributed_pose.bench.sweep.plan import SweepPlan
    from distributed_pose.bench.sweep.points import sweep_points

    lists = {
        "input": _values("--input", inputs),
        "precision": _values("--precision", precisions),
        "batch_size": _values("--batch", batches),
        "devices": _values("--devices", devices),
        "backend": _values("--backend", backends),
    }
    plan = SweepPlan(
        config=settings,
        points=sweep_points(settings, {key: some for key, some in lists.items() if some}),
        output=Location(output),
        config_file=config,
        min_ap=min_ap,
        min_images_per_s=min_images_per_s,
        tolerance=tolerance,
        watts=_amounts("--watts", watts or ()),
        prices=_amounts("--price", price or ()),
        ends_early=not no_early_end,
    )
    with _resumable():
        record = run_sweep(plan, _watching)
    _finish(record, plan.output)


def _finish(record: "SweepRecord", output: Location) -> None:
    """Writes the plots, prints the tables, and checks the outcome.

    Raises:
        ExecutionError: if points have failed.
        GateError: if no point reaches the least values.
    """
    from distributed_pose.bench.sweep.outcome import check_gates
    from distributed_pose.bench.sweep.plot import sweep_plots
    from distributed_pose.bench.sweep.table import sweep_tables

    for suffix, content in sweep_plots(record).items():
        Folder(output).write(f"sweep.{suffix}", content)
    Terminal().print(*sweep_tables(record), f"Written to {output}", sep="\n")
    if failed := [point.label for point in record.points if point.outcome == "failed"]:
        raise ExecutionError(f"{len(failed)} points failed: {', '.join(failed)}", _AGAIN)
    check_gates(record)


@contextmanager
def _watching(title: str) -> Iterator[RunProgress]:
    with run_progress() as shown:
        step(title)
        yield shown


@contextmanager
def _resumable() -> Iterator[None]:
    """Adds how to go on to the error of a sweep that is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        raise ExecutionError(
            "stopped; the results so far are kept", "enter the same command again to resume"
        ) from None


def _values(option: str, text: str | None) -> list[str]:
    """Returns the values of a list; none if the option is not given.

    Raises:
        ConfigError: if the list is too long, or a value is empty.
    """
    if text is None:
        return []
    values = [value.strip() for value in text.split(",")]
    if len(text) > _MAX_LIST or not all(values):
        raise ConfigError(f"{option}: expected values that are separated by commas")
    return values


def _amounts(option: str, texts: Iterable[str]) -> dict[str, float]:
    """Returns amounts by devices, as `--watts` and `--price` have them.

    Raises:
        ConfigError: if a text has another form, or an amount is not above 0.
    """
    amounts = {}
    for text in texts:
        devices, _, number = text.rpartition("=")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not devices or not 0 < amount < math.inf:
            raise ConfigError(f"{option} {text}: expected DEVICES=AMOUNT, such as cuda:0=70")
        amounts[devices] = amount
    return amounts
