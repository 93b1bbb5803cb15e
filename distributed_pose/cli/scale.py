"""The `scale` and `plan` commands: measured and predicted throughput of several devices."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.cli import gates
from distributed_pose.cli.options import ConfigFile, Overrides, Quiet, Verbose
from distributed_pose.cli.progress import counts, progress
from distributed_pose.cli.terminal import Terminal, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.files.json_records import read_record
from distributed_pose.files.local import (
    MAX_CARD_BYTES,
    check_not_input,
    one_line,
    read_regular,
    write_atomically,
)
from distributed_pose.packages import require

if TYPE_CHECKING:
    from distributed_pose.bench.capacity import DeviceGroup, HostCosts
    from distributed_pose.records.images import InputSize


_MAX_COUNT = 99999
_MAX_IMAGES = 1e15

_Counts = Annotated[str, typer.Option(help="Numbers of devices to measure, separated by commas.")]
_Repeat = Annotated[int, typer.Option(help="Number of runs per number of devices.", min=1)]
_Weak = Annotated[
    bool,
    typer.Option(
        "--weak", help="Weak scaling: the number of images per device is constant, not the total."
    ),
]
_Output = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="Folder to write scaling.json and plots to.")
]
_Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="DIR",
        help="Output folder of an earlier `scale` that AP and throughput may not fall behind; if "
        "they do, the exit code is 5.",
    ),
]

_Groups = Annotated[
    str,
    typer.Option(
        help="Devices as NAME=COUNT or RATE=COUNT, with the rate in images/s, separated by commas, "
        "such as ascend310p3=8,t4=2 or 300=4."
    ),
]


def _checked_images(number: float) -> float:
    # A range of the option's type would be shown as 1<=x<=1000000000000000.0 in its help.
    if not 1 <= number <= _MAX_IMAGES:
        raise typer.BadParameter(f"{number:g} is not in the range from 1 to 1e15.")
    return number


_Images = Annotated[
    float,
    typer.Option(callback=_checked_images, help="Number of images to evaluate, from 1 to 1e15."),
]
_Hosts = Annotated[
    int,
    typer.Option(help="Number of hosts that the devices are spread over.", min=1, max=_MAX_COUNT),
]
_Cores = Annotated[
    int | None,
    typer.Option(
        help="CPU cores per host; by default those of this machine.", min=1, max=_MAX_COUNT
    ),
]
_Costs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Read the host costs from a file that --save wrote; by default they are measured.",
    ),
]
_Save = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the host costs to this file.")
]
_Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="HxW",
        help="Size of the network input in pixels, such as 256x456; sets input. Published rates "
        "are scaled by the number of pixels, which is an estimate.",
    ),
]
_Check = Annotated[
    bool, typer.Option("--check", help="Also run the plan with simulated devices on this machine.")
]

# More characters than any sensible list of device groups needs.
_MAX_GROUPS = 1000


def scale(  # noqa: PLR0913 - one argument per option
    *,
    devices: _Counts = "1,2,4,8",
    repeat: _Repeat = 3,
    weak: _Weak = False,
    min_ap: gates.MinAp = None,
    min_images_per_s: gates.MinRate = None,
    baseline: _Baseline = None,
    tolerance: gates.Tolerance = None,
    rate_tolerance: gates.RateTolerance = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    output: _Output = Path("scaling"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure throughput, speed-up and efficiency with growing numbers of devices.

    The report also names the costs that limit the scaling. Gates are for the largest number of
    devices.
    """
    start_logging(verbose=verbose, quiet=quiet)
    least = gates.least(min_ap, min_images_per_s, baseline, tolerance, rate_tolerance)
    own = {"--config": config, "--baseline": baseline and baseline / "scaling.json"}
    check_not_input(output / "scaling.json", own)
    numbers = counts("--devices", devices, _MAX_COUNT)
    settings = load_config(config, overrides or ())
    require("matplotlib", extra="plots", purpose="the plot of `scale`")
    from distributed_pose.bench.plots import scaling_plots
    from distributed_pose.bench.scale import run_scaling
    from distributed_pose.bench.scale_gates import check_scaling, read_baseline
    from distributed_pose.bench.tables import scale_costs_table, scale_table

    kind = "weak" if weak else "strong"
    earlier = read_baseline(baseline, max(numbers), kind) if baseline else None
    with progress() as on_progress:
        report = run_scaling(settings, numbers, repeat, on_progress, weak=weak)
    points = report.points
    plots = scaling_plots(
        [point.devices for point in points],
        [point.runs_images_per_s for point in points],
        [point.wall_images_per_s for point in points],
        f"{report.description}, batch {report.batch_size}, gather {report.gather}",
    )
    write_atomically(output / "scaling.json", json.dumps(asdict(report), indent=2) + "\n")
    for suffix, content in plots.items():
        write_atomically(output / f"scaling.{suffix}", content)
    console = Terminal()
    console.print(scale_table(report), scale_costs_table(report), f"Written to {output}", sep="\n")
    if least:
        check_scaling(least, points[-1], earlier)


def plan(  # noqa: PLR0913 - one argument per option
    *,
    devices: _Groups,
    images: _Images = 5000,
    hosts: _Hosts = 1,
    cores: _Cores = None,
    costs: _Costs = None,
    save: _Save = None,
    check: _Check = False,
    input_size: _Input = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Predict the throughput of devices together, the hosts they need, and the bottleneck."""
    start_logging(verbose=verbose, quiet=quiet)
    sized = [f"input={json.dumps(input_size)}"] if input_size is not None else []
    settings = load_config(config, [*(overrides or ()), *sized])
    from distributed_pose.bench.capacity import capacity, rate_note, total_rate
    from distributed_pose.bench.host_costs import measure_host_costs, measure_rate, typical_input
    from distributed_pose.bench.tables import capacity_table, check_text
    from distributed_pose.devices.host import num_cpus
    from distributed_pose.engine.flow import flow_at

    size = typical_input(settings)
    groups = _groups(devices, size)
    cores_per_host = cores or num_cpus()
    flow = flow_at(settings, total_rate(groups), hosts * cores_per_host, can_read=True)
    if costs:
        host_costs = _read_costs(costs, size)
    else:
        with progress() as on_progress:
            host_costs = measure_host_costs(settings, groups, flow, on_progress)
    if save:
        check_not_input(save, {"--config": config})
        write_atomically(save, json.dumps(asdict(host_costs), indent=2) + "\n")
    planned = capacity(host_costs, groups, images, flow, hosts=hosts, cores=cores_per_host)
    console = Terminal()
    console.print(capacity_table(planned, host_costs))
    if note := rate_note(groups, size):
        console.print(note)
    if check:
        rate, busy = measure_rate(settings, groups, planned.images_per_s)
        console.print(check_text(planned, rate, busy))


def _groups(text: str, size: "InputSize") -> "list[DeviceGroup]":
    from distributed_pose.bench.capacity import DeviceGroup, published_rate

    if len(text) > _MAX_GROUPS:
        raise ConfigError(f"--devices has over {_MAX_GROUPS} characters")
    groups = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z0-9]+|[0-9.]+)=([1-9][0-9]{0,4})\s*", part)
        if not match:
            raise ConfigError(
                f"--devices {text}: expected NAME=COUNT or RATE=COUNT",
                "such as ascend310p3=8 or 300=4",
            )
        rate = published_rate(match[1], size)
        groups.append(DeviceGroup(name=match[1], count=int(match[2]), images_per_s=rate))
    return groups


def _read_costs(path: Path, size: "InputSize") -> "HostCosts":
    from distributed_pose.bench.capacity import HostCosts

    try:
        costs = read_record(HostCosts, read_regular(path, MAX_CARD_BYTES))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot read costs from {path}: {one_line(error)}", "write the file with --save"
        ) from None
    if costs.input not in {"", str(size)}:
        raise SetupError(
            f"{path} has the costs of inputs of {costs.input}, and the plan is for {size}",
            "measure them again, with --save",
        )
    return costs
