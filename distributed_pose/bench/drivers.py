"""Measures a run that several drivers share, with stubs in place of Ray's actors.

Each driver has devices, images and a ledger of its own, and matches its detections with the
labelled people of its images. One process then merges the matches and computes one score. Dispatch,
ledgers, matching and scoring are real; the actors, their detections and the people are made up.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import TypeVar

from distributed_pose.bench.driver import drive, resident_bytes
from distributed_pose.bench.labels import label
from distributed_pose.engine.steps import Progress
from distributed_pose.errors import SetupError
from distributed_pose.metrics.fast_ap import figures_of, matched
from distributed_pose.packages import is_installed

_SUFFIX = ".matches"

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DriversCost:
    """The costs of a run that several drivers share.

    Attributes:
        drivers: number of drivers.
        devices: number of devices of all drivers together.
        images: number of images of all drivers together.
        batch_size: number of images per batch and per call.
        driver_us_per_image: processor time of the drivers per image in microseconds, without the
            time of the stubs and of Ray.
        match_us_per_image: processor time of the drivers per image in microseconds to match
            detections with people.
        longest_driver_s: largest processor time of a driver in seconds, with matching.
        merge_us_per_image: processor time per image in microseconds to merge the matches of all
            drivers and to compute the score.
        merge_s: processor time of the same in seconds.
        merge_bytes_per_image: growth of the resident memory per image of the process that merges.
        match_bytes_per_image: size of the matches per image, as drivers send them.
        ap: score of all images together, by name of the figure.
    """

    drivers: int
    devices: int
    images: int
    batch_size: int
    driver_us_per_image: float
    match_us_per_image: float
    longest_driver_s: float
    merge_us_per_image: float
    merge_s: float
    merge_bytes_per_image: float
    match_bytes_per_image: float
    ap: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """What one driver did: its processor time in seconds, devices, and images with a result."""

    drive_s: float
    match_s: float
    num_devices: int
    num_settled: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Merge:
    """What merging took, and the score."""

    cpu_s: float
    memory_bytes: int
    ap: dict[str, float]


def bench_drivers(
    drivers: Sequence[int], devices: int, images: int, batch_size: int, on_progress: Progress
) -> list[DriversCost]:
    """Returns the costs of runs with several numbers of drivers.

    The drivers run one after another, each in a process of its own, as they would run side by side
    on hosts of their own.

    Args:
        drivers: numbers of drivers.
        devices: number of devices of each driver.
        images: number of images of each driver.
        batch_size: number of images per batch and per call.
        on_progress: called after each driver.

    Raises:
        SetupError: if hotcoco is not installed.
    """
    if not is_installed("hotcoco"):
        raise SetupError("matches can be merged by hotcoco only, which is not installed")
    total, done, costs = sum(drivers), 0, []
    for number in drivers:
        with TemporaryDirectory(prefix="bench-drivers-") as folder:
            shares = []
            for index in range(number):
                ids = range(index * images, (index + 1) * images)
                shares.append(_apart(_run_share, devices, ids, batch_size, folder))
                done += 1
                on_progress(total, done)
            merge = _apart(_merge, folder)
            sent = sum(path.stat().st_size for path in Path(folder).glob(f"*{_SUFFIX}"))
        costs.append(_cost(shares, merge, sent, batch_size))
    return costs


def _apart(function: Callable[..., _T], *arguments: object) -> _T:
    """Returns the result of a function that runs in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, *arguments).result()


def _run_share(devices: int, image_ids: range, batch_size: int, folder: str) -> _Share:
    """Runs one driver, and writes its matches to a file."""
    with TemporaryDirectory(prefix="bench-driver-") as own:
        driven = drive(devices, image_ids, batch_size, own)
    detections = driven.ledger.detections
    people = label(detections)
    start_s = process_time()
    matches = matched(people, detections, image_ids, image_ids.start).to_bytes()
    match_s = process_time() - start_s
    Path(folder, f"{image_ids.start:015}{_SUFFIX}").write_bytes(matches)
    return _Share(
        drive_s=driven.cpu_s,
        match_s=match_s,
        num_devices=devices,
        num_settled=driven.ledger.num_settled,
    )


def _merge(folder: str) -> _Merge:
    """Merges the matches of all drivers, and computes the score."""
    from hotcoco import StreamingEval

    memory_before, start_s = resident_bytes(), process_time()
    paths = sorted(Path(folder).glob(f"*{_SUFFIX}"))
    states = (StreamingEval.from_bytes(path.read_bytes()) for path in paths)
    figures = figures_of(StreamingEval.merge(states))
    return _Merge(
        cpu_s=process_time() - start_s,
        memory_bytes=resident_bytes() - memory_before,
        ap=figures,
    )


def _cost(shares: Sequence[_Share], merge: _Merge, sent_bytes: int, batch_size: int) -> DriversCost:
    images = sum(share.num_settled for share in shares)
    return DriversCost(
        drivers=len(shares),
        devices=sum(share.num_devices for share in shares),
        images=images,
        batch_size=batch_size,
        driver_us_per_image=1e6 * sum(share.drive_s for share in shares) / images,
        match_us_per_image=1e6 * sum(share.match_s for share in shares) / images,
        longest_driver_s=max(share.drive_s + share.match_s for share in shares),
        merge_us_per_image=1e6 * merge.cpu_s / images,
        merge_s=merge.cpu_s,
        merge_bytes_per_image=merge.memory_bytes / images,
        match_bytes_per_image=sent_bytes / images,
        ap=merge.ap,
    )
