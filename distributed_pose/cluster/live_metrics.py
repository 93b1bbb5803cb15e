"""Exports the progress of a session as Prometheus metrics, through the metrics agents of Ray.

The driver adds up its results, which costs little per result, and a thread hands the totals to Ray
once a second, which costs the same at any throughput. Ray's agent on the driver's node serves the
metrics, with the prefix `ray_`. Where a node has no such agent, Ray drops them silently.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType
from typing import Self

from ray.util.metrics import Counter, Gauge, Histogram

from distributed_pose.cluster.calls import Actor
from distributed_pose.records.shards import ShardResult
from distributed_pose.records.stages import STAGES, Durations

_PREFIX = "distributed_pose_"
_SESSION = ("run",)
_ACTOR = ("run", "device", "backend", "node")
_STAGE = (*_ACTOR, "stage")

# Ray's agent collects the metrics of a process every ten seconds by default.
_EXPORT_EVERY_S = 1.0

# An export takes milliseconds, so a thread that takes longer is left behind.
_CLOSE_TIMEOUT_S = 1.0

# Two per factor of ten, from a decoder's fastest stage to the slowest batch of a CPU.
_BOUNDARIES_S = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """The metrics of this process, which all its sessions share."""

    def __init__(self) -> None:
        self.session_images = Gauge(
            f"{_PREFIX}session_images", "Images that the session evaluates.", _SESSION
        )
        self.images = Counter(f"{_PREFIX}images_total", "Images with a result.", _ACTOR)
        self.failed_images = Counter(
            f"{_PREFIX}failed_images_total", "Images without a result.", _ACTOR
        )
        self.faults = Counter(
            f"{_PREFIX}faults_total", "Faults that the session recovered from.", _ACTOR
        )
        self.batches_in_flight = Gauge(
            f"{_PREFIX}batches_in_flight", "Batches sent and not yet answered.", _ACTOR
        )
        self.excluded = Gauge(
            f"{_PREFIX}excluded", "1 for a device or reducer that was excluded, else 0.", _ACTOR
        )
        self.stage_seconds = Counter(
            f"{_PREFIX}stage_seconds_total", "Time spent in a stage, over all images.", _STAGE
        )
        self.stage_sample_seconds = Histogram(
            f"{_PREFIX}stage_sample_seconds",
            "Duration of a stage: one measurement per second, device and stage.",
            [*_BOUNDARIES_S],
            _STAGE,
        )


@dataclass(slots=True)
class _Totals:
    """Sums over the results of one device.

    Only the thread that takes the results adds to them, so that the exporting thread needs no lock.
    The stages are fixed, because a dictionary must not grow while another thread iterates over it.
    """

    images: int = 0
    failed_images: int = 0
    stage_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    latest: Durations = field(default_factory=dict)

    def add(self, result: ShardResult) -> None:
        self.images += len(result.image_ids)
        self.failed_images += len(result.failures)
        for stage, times_ns in result.durations.items():
            self.stage_ns[stage] += sum(times_ns)
        self.latest = result.durations


class LiveMetrics:
    """Exports the metrics of one session while its block runs.

    Counters count evaluations: an image that two devices evaluated, because the first one was late,
    counts for both.

    Args:
        run: value of the label `run`, unique in the cluster.
        workers: workers of the session.
        reducers: reducers of the session.
        num_images: number of images that the session evaluates.
    """

    def __init__(
        self, run: str, workers: Sequence[Actor], reducers: Sequence[Actor], num_images: int
    ) -> None:
        self._metrics = Metrics()
        self._run, self._num_images = run, num_images
        self._actors = (*workers, *reducers)
        self._totals = {worker.name: _Totals() for worker in workers}
        self._exported: dict[tuple[Counter, str, str], float] = {}
        self._closed = Event()
        self._thread = Thread(target=self._export_until_closed, name="live-metrics", daemon=True)

    def record(self, results: Iterable[ShardResult]) -> None:
        """Adds results to the totals, which are exported within a second."""
        for result in results:
            self._totals[result.device].add(result)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Exports the final totals, with nothing in flight; has no effect a second time."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._export(is_final=True)

    def _export_until_closed(self) -> None:
        while not self._closed.wait(_EXPORT_EVERY_S):
            self._export()

    def _export(self, *, is_final: bool = False) -> None:
        self._metrics.session_images.set(self._num_images, {"run": self._run})
        for actor in self._actors:
            tags = self._tags(actor)
            in_flight = 0 if is_final else _batches_in_flight(actor)
            self._metrics.batches_in_flight.set(in_flight, tags)
            self._metrics.excluded.set(int(actor.health.is_excluded), tags)
            self._raise(self._metrics.faults, len(actor.health.faults), tags)
            if actor.name in self._totals:
                self._export_totals(self._totals[actor.name], tags)

    def _export_totals(self, totals: _Totals, tags: dict[str, str]) -> None:
        self._raise(self._metrics.images, totals.images, tags)
        self._raise(self._metrics.failed_images, totals.failed_images, tags)
        for stage, total_ns in totals.stage_ns.items():
            self._raise(self._metrics.stage_seconds, total_ns / 1e9, {**tags, "stage": stage})
        latest, totals.latest = totals.latest, {}
        for stage, times_ns in latest.items():
            if times_ns:
                sample_s = times_ns[-1] / 1e9
                self._metrics.stage_sample_seconds.observe(sample_s, {**tags, "stage": stage})

    def _raise(self, counter: Counter, total: float, tags: dict[str, str]) -> None:
        """Raises a counter to a total; counters take the difference, which must be positive."""
        key = counter, tags["device"], tags.get("stage", "")
        if (more := total - self._exported.get(key, 0)) > 0:
            counter.inc(more, tags)
            self._exported[key] = total

    def _tags(self, actor: Actor) -> dict[str, str]:
        return {
            "run": self._run,
            "device": actor.name,
            "backend": actor.ready.backend if actor.ready else "",
            "node": actor.plan.node if actor.plan else "",
        }


def _batches_in_flight(actor: Actor) -> int:
    """Returns the number of batches that an actor has; a reducer has one per call."""
    # The dispatch loop changes the list in its thread.
    calls = [*actor.calls]
    if actor.ready is None:
        return len(calls)
    return sum(-(-call.task.shard.images.num_rows // actor.ready.batch_size) for call in calls)
