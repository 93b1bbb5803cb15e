"""The commands that download, render and pack datasets: `fetch`, `demo-data` and `pack`."""

import importlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from distributed_pose.cli.options import ConfigFile, KeypointsFile, Overrides, Quiet, Verbose
from distributed_pose.cli.progress import progress
from distributed_pose.cli.terminal import Terminal, print_line, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set
from distributed_pose.locations import HIDDEN, Location

fetch = typer.Typer(
    name="fetch",
    help="Download published files: COCO val2017, the Lightweight OpenPose checkpoint.",
    no_args_is_help=True,
)

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write the files to.")]


@fetch.command("coco-val2017")
def coco_val2017(folder: _Folder) -> None:
    """Download COCO val2017: 5,000 images and their keypoints, 1.1 GB, and 0.8 GB extracted."""
    from distributed_pose.data.fetch import fetch_coco_val2017

    with _downloads() as on_progress:
        files = fetch_coco_val2017(folder, on_progress)
    _print_options({"data.images": files.images, "data.annotations": files.annotations})


@fetch.command("checkpoint")
def checkpoint(folder: _Folder) -> None:
    """Download the published checkpoint of Lightweight OpenPose."""
    from distributed_pose.data.fetch import fetch_checkpoint

    with _downloads() as on_progress:
        path = fetch_checkpoint(folder, on_progress)
    _print_options({"model.path": path})


def demo_data(
    *,
    folder: _Folder,
    images: Annotated[int, typer.Option(help="Number of images.", min=1, max=10**6)] = 64,
    seed: Annotated[
        int, typer.Option(help="Random seed that determines the images.", min=0, max=2**63 - 1)
    ] = 0,
    keypoints: KeypointsFile = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Render a COCO keypoint dataset of any size; equal seeds give equal datasets."""
    start_logging(verbose=verbose, quiet=quiet)
    found = read_keypoint_set(keypoints) if keypoints else coco_body()
    demo = importlib.import_module("distributed_pose.demo.dataset")
    with progress() as on_progress:
        on_progress(images, 0)
        written = demo.write_dataset(
            folder, images, seed, lambda done: on_progress(images, done), found
        )
    _print_options({"data.images": written.images, "data.annotations": written.annotations})


def pack(
    *,
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Empty or new folder, as a path or a URI.")
    ],
    config: ConfigFile = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Pack a dataset into Parquet files, for workers that read from a shared disk or a bucket."""
    start_logging(verbose=verbose, quiet=quiet)
    settings = load_config(config, overrides or ())
    from distributed_pose.data.packing import ANNOTATIONS, pack_dataset
    from distributed_pose.run.inputs import read_dataset

    index, source, _ = read_dataset(settings)
    place = Location(folder).absolute()
    with progress() as on_progress:
        pack_dataset(index, source, place, on_progress)
    annotations = place.within(ANNOTATIONS)
    _print_options({"data.images": place, "data.annotations": annotations, "data.read": "worker"})


def _print_options(values: Mapping[str, Path | Location | str]) -> None:
    # Quoted, so that the line can be pasted after `distributed-pose evaluate`.
    line = " ".join(f"--set {shlex.quote(f'{key}={path}')}" for key, path in values.items())
    print_line(line)
    if HIDDEN in line:
        print_line(f"replace {HIDDEN} by your credentials", err=True)


class _Bars:
    """Shows one progress bar per file."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        if name not in self._tasks:
            # Bytes that an earlier command downloaded do not count for the speed.
            self._tasks[name] = self._progress.add_task(name, completed=done_bytes)
        self._progress.update(self._tasks[name], completed=done_bytes, total=total_bytes)


@contextmanager
def _downloads() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # On stderr, so that stdout has only the options; no progress is written to a log file.
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield _Bars(bars)
