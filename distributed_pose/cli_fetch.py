"""The `fetch` commands: the published dataset and checkpoint, for those who can download."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

fetch = typer.Typer(
    name="fetch",
    help="Download what is published: COCO val2017, the Lightweight OpenPose checkpoint.",
    no_args_is_help=True,
)

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the files.")]


@fetch.command("coco-val2017")
def coco_val2017(folder: _Folder) -> None:
    """Download COCO val2017, 5,000 images and their keypoints: 1.1 GB, and 0.8 GB extracted."""
    from distributed_pose.data.fetch import fetch_coco_val2017

    with _progress() as on_progress:
        files = fetch_coco_val2017(folder, on_progress)
    _say_options({"data.images": files.images, "data.annotations": files.annotations})


@fetch.command("checkpoint")
def checkpoint(folder: _Folder) -> None:
    """Download the published checkpoint of Lightweight OpenPose."""
    from distributed_pose.data.fetch import fetch_checkpoint

    with _progress() as on_progress:
        path = fetch_checkpoint(folder, on_progress)
    _say_options({"model.path": path})


def _say_options(values: dict[str, Path]) -> None:
    # Quoted, so that the line can be pasted after `distributed-pose evaluate`.
    typer.echo(" ".join(f"--set {shlex.quote(f'{key}={path}')}" for key, path in values.items()))


class _Bars:
    """One progress bar for each file."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        if name not in self._tasks:
            # What an earlier command brought is no part of the speed.
            self._tasks[name] = self._progress.add_task(name, completed=done_bytes)
        self._progress.update(self._tasks[name], completed=done_bytes, total=total_bytes)


@contextmanager
def _progress() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # On stderr, so that stdout holds the options alone; a log file gets none of it.
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Bars(progress)
