"""Measures what a run costs its driver per image, with stubs in place of Ray's actors.

Everything of the driver is real: the dispatch loop with its deadlines, the queue of tasks, the
checks of answers, the live metrics, the ledger and its files on disk. The stubs answer at once with
results of the usual size. Their own time is subtracted, and Ray's own time per call is not part of
it.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import psutil

from distributed_pose.bench.labels import label
from distributed_pose.cluster.backpressure import InFlightBudget
from distributed_pose.cluster.calls import Actor
from distributed_pose.cluster.guard import Guard
from distributed_pose.cluster.live_metrics import LiveMetrics
from distributed_pose.cluster.loop import DispatchLoop, DispatchSettings
from distributed_pose.config.schema import RunConfig
from distributed_pose.data.shards import Shard, list_shards, pack_detections, unpack_images
from distributed_pose.devices.host import peak_rss_bytes
from distributed_pose.engine.dispatch import calls_in_flight
from distributed_pose.engine.health import Health
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.steps import Progress
from distributed_pose.engine.task_queue import TaskQueue
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.evaluation import record_results
from distributed_pose.files.storage import Folder
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.metrics.scoring import FAST_FROM, score
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.images import ImageRecord
from distributed_pose.records.shards import ShardResult
from distributed_pose.records.stages import DECODE_STAGES
from distributed_pose.report.detections_json import detections_json_parts
from distributed_pose.report.run_report import DETECTIONS
from distributed_pose.run.ledger import Ledger
from distributed_pose.run.ledger_files import LedgerFiles

_PEOPLE_PER_IMAGE = 2
_FIRST_IMAGES = 512
_DEADLINE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverCost:
    """The cost of a run to its driver.

    Attributes:
        devices: number of devices.
        images: number of images.
        batch_size: number of images per batch and per call.
        cpu_us_per_image: processor time of the driver per image in microseconds, all its threads
            together, without the time of the stubs and of Ray.
        wall_s: seconds from the first dispatch to the end of the ledger's files, with the stubs.
        cpu_s: processor time of the driver in seconds, without the time of the stubs.
        memory_bytes_per_image: growth of the resident memory per image: list of images, ledger
            with detections, and all that was in flight.
        score_us_per_image: processor time of the driver per image in microseconds to score the
            detections and to write `detections.json`.
        peak_bytes_per_image: growth of the resident memory per image up to its peak, with the
            labelled people, scoring and writing.
        ledger_bytes_per_image: size of the ledger's files per image.
        ledger_files: number of the ledger's files.
    """

    devices: int
    images: int
    batch_size: int
    cpu_us_per_image: float
    wall_s: float
    cpu_s: float
    memory_bytes_per_image: float
    score_us_per_image: float
    peak_bytes_per_image: float
    ledger_bytes_per_image: float
    ledger_files: int


def bench_driver(
    devices: Sequence[int], images: int, batch_size: int, on_progress: Progress
) -> list[DriverCost]:
    """Returns the costs of runs with several numbers of devices, each in a process of its own.

    Args:
        devices: numbers of devices.
        images: number of images of each run.
        batch_size: number of images per batch and per call.
        on_progress: called after each run.
    """
    costs = []
    for number in devices:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            costs.append(process.submit(_measure, number, images, batch_size).result())
        on_progress(len(devices), len(costs))
    return costs


def _measure(devices: int, images: int, batch_size: int) -> DriverCost:
    with TemporaryDirectory(prefix="bench-driver-") as folder:
        # A short run first loads both scoring libraries, whose memory does not grow with images.
        _score(drive(1, range(_FIRST_IMAGES), batch_size, folder), folder, fast_from=1)
    memory_before = resident_bytes()
    with TemporaryDirectory(prefix="bench-driver-") as folder:
        driven = drive(devices, range(images), batch_size, folder)
        memory_after = resident_bytes()
        score_s = _score(driven, folder)
        paths = [*Path(folder, "ledger").iterdir()]
        ledger_bytes = sum(path.stat().st_size for path in paths)
    return DriverCost(
        devices=devices,
        images=images,
        batch_size=batch_size,
        cpu_us_per_image=1e6 * driven.cpu_s / images,
        wall_s=driven.wall_s,
        cpu_s=driven.cpu_s,
        memory_bytes_per_image=(memory_after - memory_before) / images,
        score_us_per_image=1e6 * score_s / images,
        peak_bytes_per_image=(peak_rss_bytes() - memory_before) / images,
        ledger_bytes_per_image=ledger_bytes / images,
        ledger_files=len(paths),
    )


def _score(driven: "Driven", folder: str, fast_from: int = FAST_FROM) -> float:
    """Returns the processor time in seconds to score a run and to write its detections."""
    detections = driven.ledger.detections
    people = label(detections)
    start_s = process_time()
    score(people, detections, driven.image_ids, fast_from)
    Folder(folder).write_parts(DETECTIONS, detections_json_parts(detections))
    return process_time() - start_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Driven:
    """What a driver did.

    Attributes:
        ledger: ledger with all results.
        image_ids: ids of the images.
        wall_s: seconds from the first dispatch to the end of the ledger's files, with the stubs.
        cpu_s: processor time of the driver in seconds, without the time of the stubs.
    """

    ledger: Ledger
    image_ids: range
    wall_s: float
    cpu_s: float


def drive(devices: int, image_ids: range, batch_size: int, folder: str) -> Driven:
    """Runs a driver with stubs in place of actors.

    Args:
        devices: number of devices.
        image_ids: ids of the images.
        batch_size: number of images per batch and per call.
        folder: folder for the ledger's files.
    """
    records = [ImageRecord(i, f"{i:012}.jpg", 480, 640) for i in image_ids]
    ledger = Ledger(records)
    stamps = {
        record.image_id: f"{100_000 + record.image_id}-1795679659046904504" for record in records
    }
    ready = [_ready(number, batch_size) for number in range(devices)]
    stub = _Stub()
    files = LedgerFiles(Folder(folder), {"bench": "driver"})
    start_s, start_cpu_s = perf_counter(), process_time()
    with files:
        results = _results(stub, records, ready, batch_size)
        for _ in record_results(results, ledger, ready, stamps, files):
            pass
    return Driven(
        ledger=ledger,
        image_ids=image_ids,
        wall_s=perf_counter() - start_s,
        cpu_s=process_time() - start_cpu_s - stub.spent_s,
    )


def _results(
    stub: "_Stub", records: Sequence[ImageRecord], ready: Sequence[DeviceReady], batch_size: int
) -> Iterator[ShardResult]:
    """Yields the results of all images, as `RayEngine.run` does."""
    pool = _Pool([_worker(stub, device) for device in ready])
    shards: Iterator[Shard] = list_shards(records, batch_size)
    names = [device.plan.name for device in ready]
    queue = TaskQueue(shards, dict.fromkeys(names, batch_size), num_images=len(records))
    budget = InFlightBudget(RunConfig(gather="poses"), room_bytes=2**34)
    in_flight = {device.plan.name: calls_in_flight(device, 1) for device in ready}
    settings = DispatchSettings(gather="poses", in_flight=in_flight)
    guard = Guard()
    batches = DispatchLoop(pool, queue, budget, stub, settings).results()
    with LiveMetrics("bench", pool.workers, pool.reducers, len(records)) as live_metrics:
        while batch := guard.call(next, batches, None):
            live_metrics.record(batch)
            yield from batch
    guard.end()


def _ready(number: int, batch_size: int) -> DeviceReady:
    plan = DevicePlan(
        name=f"cuda:{number}", kind="cuda", node="10.0.0.1", node_id="a-node", cpus=2.0
    )
    return DeviceReady(
        plan=plan,
        backend="stub",
        precision="f16",
        description="stub",
        batch_size=batch_size,
        warmup_ns=0,
        shard_size=batch_size,
        slots=2,
        batches_in_flight=3,
    )


def _worker(stub: "_Stub", device: DeviceReady) -> Actor:
    actor = Actor(device.plan.name, stub.create, Health(_DEADLINE_S), plan=device.plan)
    actor.launch()
    actor.started(device)
    return actor


@dataclass
class _Pool:
    """Workers that never fail."""

    workers: list[Actor]
    reducers: tuple[Actor, ...] = ()
    is_stopped: bool = False

    @property
    def starting(self) -> dict[Any, Actor]:
        return {}

    def restart(
        self, actor: Actor, reason: str, *, is_suspect: bool = False, final: bool = False
    ) -> bool:
        raise AssertionError(actor.name, reason, is_suspect, final)

    def finish_start(self, actor: Actor) -> None:
        raise AssertionError(actor.name)


class _Stub:
    """Actors and their answers in this process.

    Attributes:
        spent_s: processor time of the stub itself, in seconds.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._answers: dict[int, bytes] = {}
        self._number = 0
        self.process = self

    def create(self) -> tuple["_Stub", None]:
        """Returns a handle of an actor that is ready."""
        return self, None

    def options(self, *, num_returns: int) -> "_Stub":
        """Returns the method itself; workers answer with one value."""
        del num_returns
        return self

    def remote(self, packed: bytes) -> int:
        """Keeps a shard, and returns the reference to its answer."""
        self._number += 1
        self._answers[self._number] = packed
        return self._number

    def wait(self, references: Sequence[Any], deadline_at: float | None) -> Sequence[Any]:
        """Returns all references: the driver is the slowest part, so that all calls are done."""
        del deadline_at
        return references

    def fetch(self, references: Sequence[Any]) -> Sequence[Any]:
        """Returns answers of the usual size."""
        start = thread_time()
        answers = [_answer(self._answers.pop(reference)) for reference in references]
        self.spent_s += thread_time() - start
        return answers


def _answer(packed: bytes) -> tuple[Reduction, WorkerReport]:
    ids_N = unpack_images(packed).column("image_id").to_numpy()
    ids, number = tuple(ids_N.tolist()), len(ids_N)
    random = np.random.default_rng(ids[0])
    values = 3 * coco_body().num_dataset_keypoints
    keypoints = random.integers(0, 640, (_PEOPLE_PER_IMAGE * number, values)) + 0.5
    poses = Poses(keypoints.astype(np.float64), random.random(len(keypoints)))
    times = tuple(random.integers(10**5, 10**7, number).tolist())
    report = WorkerReport(
        image_ids=ids,
        encoded_bytes=times,
        failures=(),
        durations={
            **dict.fromkeys(("read", "decode_jpeg", "preprocess"), times),
            **dict.fromkeys(("copy_in", "compute", "copy_out", "check"), times[:1]),
        },
        digests=tuple(f"{image_id:016x}" for image_id in ids),
    )
    reduction = Reduction(
        image_ids=ids,
        detections=pack_detections(np.repeat(ids_N, _PEOPLE_PER_IMAGE), poses),
        durations=dict.fromkeys(DECODE_STAGES, times),
    )
    return reduction, report


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    return int(psutil.Process().memory_info().rss)
