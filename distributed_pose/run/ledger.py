"""The ledger, in which every image of a run gets exactly one result or recorded failure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

from distributed_pose.data.shards import keep_detections, unpack_detections
from distributed_pose.errors import ExecutionError
from distributed_pose.metrics.coco_ap import coco_results
from distributed_pose.metrics.throughput import merge
from distributed_pose.records import (
    Damage,
    DeviceReady,
    Durations,
    Failure,
    ImageRecord,
    ShardResult,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """The result of a shard, with the session, time and device that the figures of the run need.

    Attributes:
        session: unique name of the session, which lasts from a start of the devices to their end.
        elapsed_ns: nanoseconds from the first dispatch of the session to the arrival of the result.
        device: device that made the result.
        result: result of the shard.
    """

    session: str
    elapsed_ns: int
    device: DeviceReady
    result: ShardResult


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFigures:
    """The work of a device in all sessions of a run.

    Attributes:
        device: description of the device without the facts that differ between sessions.
        images: number of images that the device has settled with a result.
        compute_ns: nanoseconds that the device has executed the model.
        wall_ns: nanoseconds of the sessions that the device has taken part in.
    """

    device: DeviceReady
    images: int
    compute_ns: int
    wall_ns: int


@dataclass
class _Session:
    wall_ns: int = 0
    devices: set[DeviceReady] = field(default_factory=set)
    last_ns: dict[DeviceReady, int] = field(default_factory=dict)

    @property
    def straggled_ns(self) -> int:
        """Nanoseconds from the last result of each device to that of the session, summed up."""
        return sum(self.wall_ns - self.last_ns.get(device, 0) for device in self.devices)


class Ledger:
    """Collects the results of shards, and counts an image once if it has several results.

    Args:
        images: all images of the run.
    """

    def __init__(self, images: Sequence[ImageRecord]) -> None:
        self._expected = {image.image_id: image for image in images}
        self._encoded_bytes: dict[int, int] = {}
        self._digests: dict[int, str] = {}
        self._stamps: dict[int, str] = {}
        self._failures: dict[int, Failure] = {}
        self._damaged: dict[int, Damage] = {}
        self._detections: list[bytes] = []
        self._durations: list[Durations] = []
        self._sessions: dict[str, _Session] = defaultdict(_Session)
        self._num_images: Counter[DeviceReady] = Counter()
        self._compute_ns: Counter[DeviceReady] = Counter()

    def begin(self, session: str, devices: Iterable[DeviceReady]) -> None:
        """Records a session and the devices that take part in it."""
        self._sessions[session].devices |= {_lasting(device) for device in devices}

    def accept(self, entry: LedgerEntry) -> LedgerEntry | None:
        """Records an entry and returns the part of it that is new; None if there is none.

        The first result of an image is final. A failure is replaced by a result.

        Raises:
            ExecutionError: if the entry has an image that is not in the run.
        """
        result, device = entry.result, _lasting(entry.device)
        failed = {failure.image_id: failure for failure in result.failures}
        if strangers := {*result.image_ids, *failed} - self._expected.keys():
            raise ExecutionError(
                f"a result of images that are not in the run: {sorted(strangers)}",
                device=result.device,
            )
        self.begin(entry.session, [device])
        session = self._sessions[entry.session]
        session.wall_ns = max(session.wall_ns, entry.elapsed_ns)
        session.last_ns[device] = max(session.last_ns.get(device, 0), entry.elapsed_ns)
        self._failures |= {i: f for i, f in failed.items() if i not in self._encoded_bytes}
        new = _new_part(result, self._encoded_bytes.keys())
        if not new.image_ids:
            return None
        self._encoded_bytes |= zip(new.image_ids, new.encoded_bytes, strict=True)
        self._digests |= zip(new.image_ids, new.digests, strict=bool(new.digests))
        self._stamps |= zip(new.image_ids, new.stamps, strict=bool(new.stamps))
        for image_id in self._failures.keys() & set(new.image_ids):
            del self._failures[image_id]
        self._damaged |= {damage.image_id: damage for damage in new.damaged}
        self._detections.append(new.detections)
        self._durations.append(new.durations)
        self._num_images[device] += len(new.image_ids)
        self._compute_ns[device] += sum(new.durations.get("compute", ()))
        return replace(entry, device=device, result=new)

    @property
    def num_settled(self) -> int:
        """Number of images that have a result or a failure."""
        return len(self._encoded_bytes) + len(self._failures)

    @property
    def encoded_bytes(self) -> Mapping[int, int]:
        """File size in bytes of each image that has a result, by image id."""
        return self._encoded_bytes

    @property
    def digests(self) -> Mapping[int, str]:
        """Digest of the encoded bytes of each image that has a result, by image id."""
        return self._digests

    @property
    def stamps(self) -> Mapping[int, str]:
        """Stamp of each image that has a result, by image id; see `ShardResult`."""
        return self._stamps

    @property
    def open_images(self) -> list[ImageRecord]:
        """Images without a result, in the order of the run."""
        return [image for i, image in self._expected.items() if i not in self._encoded_bytes]

    @property
    def failures(self) -> list[Failure]:
        """Images without a result by ascending id, including those without a recorded failure."""
        found = [
            self._failures.get(image.image_id)
            or Failure(image.image_id, image.file_name, "no result came back")
            for image in self.open_images
        ]
        return sorted(found, key=lambda failure: failure.image_id)

    @property
    def damaged(self) -> list[Damage]:
        """Images with a result whose file is damaged, by ascending id."""
        return [damage for _, damage in sorted(self._damaged.items())]

    @property
    def recorded_failures(self) -> list[Failure]:
        """Images with a recorded failure and no result, by ascending id."""
        return [failure for _, failure in sorted(self._failures.items())]

    @property
    def detections(self) -> list[dict[str, Any]]:
        """All detections in COCO results format and in canonical order."""
        return coco_results(chain.from_iterable(map(unpack_detections, self._detections)))

    @property
    def durations(self) -> dict[str, list[int]]:
        """All raw durations in nanoseconds, by stage."""
        return merge(self._durations)

    @property
    def num_sessions(self) -> int:
        """Number of sessions that the results come from."""
        return len(self._sessions)

    @property
    def wall_ns(self) -> int:
        """Nanoseconds from first dispatch to last result, summed over the sessions."""
        return sum(session.wall_ns for session in self._sessions.values())

    @property
    def straggler_share(self) -> float:
        """Share of the devices' wall time that they spent waiting for others at the end."""
        device_ns = sum(one.wall_ns * len(one.devices) for one in self._sessions.values())
        straggled_ns = sum(session.straggled_ns for session in self._sessions.values())
        return straggled_ns / device_ns if device_ns else 0.0

    @property
    def devices(self) -> list[DeviceFigures]:
        """Figures of each device, sorted by name."""
        wall_ns: Counter[DeviceReady] = Counter()
        for session in self._sessions.values():
            wall_ns.update(dict.fromkeys(session.devices, session.wall_ns))
        figures = [
            DeviceFigures(
                device=device,
                images=self._num_images[device],
                compute_ns=self._compute_ns[device],
                wall_ns=time_ns,
            )
            for device, time_ns in wall_ns.items()
        ]
        return sorted(figures, key=lambda f: (_natural(f.device.plan.name), repr(f.device)))


def _lasting(device: DeviceReady) -> DeviceReady:
    """Returns a device without the facts that differ between sessions."""
    return replace(device, plan=replace(device.plan, node_id=""), warmup_ns=0, batch_ns=0)


def _natural(name: str) -> tuple[str, tuple[int, ...]]:
    kind, _, numbers = name.partition(":")
    return kind, tuple(map(int, numbers.split("."))) if numbers else ()


def _new_part(result: ShardResult, settled: Collection[int]) -> ShardResult:
    """Returns a result without the settled images, and with a reduced share of its durations."""
    rows = [row for row, image_id in enumerate(result.image_ids) if image_id not in settled]
    if len(rows) == len(result.image_ids):
        return result
    new = [result.image_ids[row] for row in rows]
    return replace(
        result,
        image_ids=tuple(new),
        detections=keep_detections(result.detections, new),
        encoded_bytes=_picked(result.encoded_bytes, rows),
        digests=_picked(result.digests, rows),
        stamps=_picked(result.stamps, rows),
        damaged=tuple(damage for damage in result.damaged if damage.image_id in new),
        durations=_shared_out(result.durations, len(new), len(result.image_ids)),
    )


_T = TypeVar("_T")


def _picked(values: Sequence[_T], rows: Sequence[int]) -> tuple[_T, ...]:
    """Returns the values in some rows, or an empty tuple if there are no values at all."""
    return tuple(values[row] for row in rows) if values else ()


def _shared_out(durations: Durations, part: int, whole: int) -> Durations:
    """Returns the durations of some images of a shard, in proportion to their number.

    The durations of a shard cannot be assigned to images, because a batch has one for all images.

    Args:
        durations: durations of the shard in nanoseconds, by stage.
        part: number of images to return the durations of.
        whole: number of images in the shard.
    """
    return {
        stage: tuple(time_ns * part // whole for time_ns in times_ns)
        for stage, times_ns in durations.items()
        if part
    }
