"""The `bench` commands: costs of host and driver, speed of devices and of the whole pipeline."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.cli.options import (
    AsJson,
    ConfigFile,
    KeypointsFile,
    Overrides,
    Quiet,
    Verbose,
)
from distributed_pose.cli.progress import counts, progress
from distributed_pose.cli.terminal import Terminal, print_text, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.config.schema import RunConfig
from distributed_pose.errors import ConfigError
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set

if TYPE_CHECKING:
    from distributed_pose.bench.driver import DriverCost
    from distributed_pose.bench.drivers import DriversCost

bench = typer.Typer(
    name="bench",
    help="Measure host costs, devices, the driver and the whole pipeline.",
    no_args_is_help=True,
)

# No device has memory for larger batches.
_MAX_BATCH = 4096

_MAX_DEVICES, _MAX_DRIVERS = 4096, 64
# Fifty gigabytes of the driver's memory.
_MAX_IMAGES = 50_000_000


@bench.command("host")
def host(
    *,
    config: ConfigFile = None,
    overrides: Overrides = None,
    repeat: Annotated[int, typer.Option(help="Number of measurements per image.", min=1)] = 5,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure the CPU time per image of every stage off the device, on one core.

    The default of data.limit is 64.
    """
    start_logging(verbose=verbose, quiet=quiet)
    settings = _with_limit(load_config(config, overrides or ()), 64)
    from distributed_pose.bench.host import bench_host
    from distributed_pose.bench.tables import host_table

    with progress() as on_progress:
        report = bench_host(settings, repeat, on_progress)
    if as_json:
        print_text(json.dumps(asdict(report), indent=2) + "\n")
    else:
        Terminal().print(host_table(report))


@bench.command("decoder")
def decoder(
    *,
    repeat: Annotated[int, typer.Option(help="Number of measurements of each case.", min=1)] = 5,
    keypoints: KeypointsFile = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure the decoder's CPU time for the worst maps that a network can give it.

    Maps with more candidates than poses can have are refused; the others come close to the limits.
    """
    start_logging(verbose=verbose, quiet=quiet)
    from distributed_pose.bench.tables import worst_case_table
    from distributed_pose.bench.worst_case import bench_worst_case

    found = read_keypoint_set(keypoints) if keypoints else coco_body()
    with progress() as on_progress:
        report = bench_worst_case(repeat, on_progress, found)
    if as_json:
        print_text(json.dumps(asdict(report), indent=2) + "\n")
    else:
        Terminal().print(worst_case_table(report))


@bench.command("pipeline")
def pipeline(
    *,
    config: ConfigFile = None,
    overrides: Overrides = None,
    repeat: Annotated[
        int, typer.Option(help="Number of pairs of a model-only run and a whole run.", min=1)
    ] = 1,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compare the images/s of whole runs with those of the model alone on the same cores.

    The default of data.limit is 512.
    """
    start_logging(verbose=verbose, quiet=quiet)
    settings = _with_limit(load_config(config, overrides or ()), 512)
    from distributed_pose.bench.pipeline import bench_pipeline
    from distributed_pose.bench.tables import pipeline_table

    with progress() as on_progress:
        report = bench_pipeline(settings, repeat, on_progress)
    if as_json:
        print_text(json.dumps(asdict(report), indent=2) + "\n")
    else:
        Terminal().print(pipeline_table(report))


@bench.command("device")
def device(  # noqa: PLR0913 - one argument per option
    *,
    config: ConfigFile = None,
    overrides: Overrides = None,
    batch: Annotated[
        str, typer.Option(help="Batch sizes to measure, separated by commas.")
    ] = "1,2,4,8,16,32",
    seconds: Annotated[
        float,
        typer.Option(
            help="Minimum time to measure each batch size, in seconds.", min=0.0, max=3600.0
        ),
    ] = 2.0,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure execution time, latency and images/s of each device by batch size.

    The fastest batch size is marked.
    """
    start_logging(verbose=verbose, quiet=quiet)
    settings = load_config(config, overrides or ())
    sizes = batch_sizes(batch)
    from distributed_pose.bench.device import bench_device
    from distributed_pose.bench.tables import device_bench_table

    with progress() as on_progress:
        sweeps = bench_device(settings, sizes, seconds, on_progress)
    if as_json:
        print_text(json.dumps([asdict(sweep) for sweep in sweeps], indent=2) + "\n")
    else:
        Terminal().print(*map(device_bench_table, sweeps))


@bench.command("driver")
def driver(  # noqa: PLR0913 - one argument per option
    *,
    devices: Annotated[
        str, typer.Option(help="Numbers of devices to measure, separated by commas.")
    ] = "1,4,64,256",
    images: Annotated[
        int, typer.Option(help="Number of images of each run.", min=1, max=_MAX_IMAGES)
    ] = 100_000,
    batch_size: Annotated[
        int, typer.Option(help="Number of images per batch.", min=1, max=_MAX_BATCH)
    ] = 16,
    drivers: Annotated[
        str | None,
        typer.Option(
            help="Numbers of drivers that share a run, separated by commas; each has --devices "
            "devices and --images images, and their results are merged into one score.",
        ),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure the driver's processor time and memory per image, with stubs in place of actors."""
    start_logging(verbose=verbose, quiet=quiet)
    numbers = counts("--devices", devices, _MAX_DEVICES)
    many = counts("--drivers", drivers, _MAX_DRIVERS) if drivers is not None else []
    if many and len(numbers) != 1:
        raise ConfigError("--drivers needs one number of devices", "such as --devices 64")
    from distributed_pose.bench.driver import bench_driver
    from distributed_pose.bench.drivers import bench_drivers
    from distributed_pose.bench.tables import driver_table, drivers_table

    costs: list[DriverCost] | list[DriversCost]
    with progress() as on_progress:
        if many:
            costs = bench_drivers(many, numbers[0], images, batch_size, on_progress)
            table = drivers_table(costs)
        else:
            costs = bench_driver(numbers, images, batch_size, on_progress)
            table = driver_table(costs)
    if as_json:
        print_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")
    else:
        Terminal().print(table)


def batch_sizes(text: str) -> list[int]:
    """Returns the batch sizes in a text such as `1,4,8`.

    Raises:
        ConfigError: if the text has another form.
    """
    return counts("--batch", text, _MAX_BATCH)


def _with_limit(config: RunConfig, limit: int) -> RunConfig:
    data = config.data.model_copy(update={"limit": config.data.limit or limit})
    return config.model_copy(update={"data": data})
