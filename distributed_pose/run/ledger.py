"""The ledger, in which every image of a run gets exactly one result or recorded failure."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, MutableSequence, Sequence
from dataclasses import dataclass, field, replace

from distributed_pose.data.detections import Detections, DetectionsStore
from distributed_pose.data.digests import content_digest
from distributed_pose.errors import ExecutionError
from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.images import Damage, Failure, ImageRecord
from distributed_pose.records.shards import ShardResult
from distributed_pose.records.stages import STAGES
from distributed_pose.run.partial_results import part_of

# The file size of an image without a result.
_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """The result of a shard, with the session, time and device that the figures of the run need.

    Attributes:
        session: unique name of the session, which lasts from a start of the devices to their end.
        elapsed_ns: nanoseconds from the first dispatch of the session to the arrival of the result.
        device: device that made the result.
        result: result of the shard.
        begun_s: time of the first dispatch of the session in seconds since 1970; 0 if unknown.
    """

    session: str
    elapsed_ns: int
    device: DeviceReady
    result: ShardResult
    begun_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionFigures:
    """A session of a run.

    Attributes:
        begun_s: time of the first dispatch in seconds since 1970; 0 if unknown.
        wall_ns: nanoseconds from the first dispatch to the last result.
        images: number of images that were settled with a result.
    """

    begun_s: float
    wall_ns: int
    images: int


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


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedImage:
    """The file of an image that has a result, as it was when it was evaluated.

    Attributes:
        encoded_bytes: file size in bytes.
        digest: digest of the file; see `ShardResult`.
        stamp: stamp of the file; empty if it has none.
    """

    encoded_bytes: int
    digest: str
    stamp: str


@dataclass(slots=True)
class _Share:
    """The part of a session that one device has done."""

    images: int = 0
    compute_ns: int = 0
    last_ns: int = 0


@dataclass(slots=True)
class _Session:
    wall_ns: int = 0
    begun_s: float = 0.0
    shares: dict[DeviceReady, _Share] = field(default_factory=lambda: defaultdict(_Share))

    @property
    def straggled_ns(self) -> int:
        """Nanoseconds from the last result of each device to that of the session, summed up."""
        return sum(self.wall_ns - share.last_ns for share in self.shares.values())


class Ledger:
    """Collects the results of shards, and counts an image once if it has several results.

    The work per result does not grow with the number of images, and an image takes some hundred
    bytes, without its detections.

    Args:
        images: all images of the run.
    """

    def __init__(self, images: Sequence[ImageRecord]) -> None:
        self._images = images
        self._rows = {image.image_id: row for row, image in enumerate(images)}
        self._encoded_bytes = array("q", [_UNKNOWN]) * len(images)
        # Sixteen hexadecimal digits are one number of 64 bits.
        self._digests = array("Q", [0]) * len(images)
        self._stamps = [""] * len(images)
        self._num_evaluated = 0
        self._failures: dict[int, Failure] = {}
        self._damaged: dict[int, Damage] = {}
        self._detections = DetectionsStore()
        self._durations = {stage: array("q") for stage in STAGES}
        self._sessions: dict[str, _Session] = defaultdict(_Session)
        self._lasting: dict[DeviceReady, DeviceReady] = {}

    def begin(self, session: str, devices: Iterable[DeviceReady]) -> None:
        """Records a session and the devices that take part in it."""
        for device in devices:
            self._share(session, device)

    def accept(self, entry: LedgerEntry) -> LedgerEntry | None:
        """Records an entry and returns the part of it that is new; None if there is none.

        The first result of an image is final. A failure is replaced by a result.

        Raises:
            ExecutionError: if the entry has an image that is not in the run.
        """
        result = entry.result
        self._check_known(result)
        device, share = self._share(entry.session, entry.device)
        session = self._sessions[entry.session]
        session.wall_ns = max(session.wall_ns, entry.elapsed_ns)
        session.begun_s = entry.begun_s
        share.last_ns = max(share.last_ns, entry.elapsed_ns)
        for failure in result.failures:
            if not self._is_evaluated(failure.image_id):
                self._failures[failure.image_id] = failure
        new = self._new_part(result)
        if not new.image_ids:
            return None
        self._keep(new)
        share.images += len(new.image_ids)
        share.compute_ns += sum(new.durations.get("compute", ()))
        return LedgerEntry(
            session=entry.session,
            elapsed_ns=entry.elapsed_ns,
            device=device,
            result=new,
            begun_s=entry.begun_s,
        )

    @property
    def num_settled(self) -> int:
        """Number of images that have a result or a failure."""
        return self._num_evaluated + len(self._failures)

    @property
    def num_failed(self) -> int:
        """Number of images with a recorded failure."""
        return len(self._failures)

    def evaluated(self, image_id: int) -> EvaluatedImage | None:
        """Returns the file of an image that has a result; None for other images."""
        if not self._is_evaluated(image_id):
            return None
        row = self._rows[image_id]
        return EvaluatedImage(
            encoded_bytes=self._encoded_bytes[row],
            digest=f"{self._digests[row]:016x}",
            stamp=self._stamps[row],
        )

    @property
    def evaluated_ids(self) -> set[int]:
        """Ids of the images that have a result."""
        return {image_id for image_id in self._rows if self._is_evaluated(image_id)}

    @property
    def open_images(self) -> list[ImageRecord]:
        """Images without a result, in the order of the run."""
        return [image for image in self._images if not self._is_evaluated(image.image_id)]

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
    def detections(self) -> Detections:
        """All detections, in canonical order."""
        return self._detections.in_canonical_order()

    @property
    def durations(self) -> dict[str, MutableSequence[int]]:
        """All raw durations in nanoseconds, by stage."""
        return {stage: array("q", times_ns) for stage, times_ns in self._durations.items()}

    @property
    def num_sessions(self) -> int:
        """Number of sessions that the results come from."""
        return len(self._sessions)

    @property
    def sessions(self) -> list[SessionFigures]:
        """Sessions that the results come from, in the order of time."""
        figures = [
            SessionFigures(
                begun_s=session.begun_s,
                wall_ns=session.wall_ns,
                images=sum(share.images for share in session.shares.values()),
            )
            for session in self._sessions.values()
        ]
        return sorted(figures, key=lambda session: session.begun_s)

    @property
    def images_digest(self) -> str:
        """Digest of the digests of all images, in the order of the run; see `content_digest`."""
        return content_digest(self._digests.tobytes())

    @property
    def wall_ns(self) -> int:
        """Nanoseconds from first dispatch to last result, summed over the sessions."""
        return sum(session.wall_ns for session in self._sessions.values())

    @property
    def straggler_share(self) -> float:
        """Share of the devices' wall time that they spent waiting for others at the end."""
        device_ns = sum(one.wall_ns * len(one.shares) for one in self._sessions.values())
        straggled_ns = sum(session.straggled_ns for session in self._sessions.values())
        return straggled_ns / device_ns if device_ns else 0.0

    @property
    def devices(self) -> list[DeviceFigures]:
        """Figures of each device, sorted by name."""
        totals: dict[DeviceReady, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        for session in self._sessions.values():
            for device, share in session.shares.items():
                images, compute_ns, wall_ns = totals[device]
                totals[device] = (
                    images + share.images,
                    compute_ns + share.compute_ns,
                    wall_ns + session.wall_ns,
                )
        figures = [
            DeviceFigures(device=device, images=images, compute_ns=compute_ns, wall_ns=wall_ns)
            for device, (images, compute_ns, wall_ns) in totals.items()
        ]
        return sorted(figures, key=lambda f: (_natural(f.device.plan.name), repr(f.device)))

    def _is_evaluated(self, image_id: int) -> bool:
        return self._encoded_bytes[self._rows[image_id]] != _UNKNOWN

    def _share(self, session: str, device: DeviceReady) -> tuple[DeviceReady, _Share]:
        # Facts that are not compared, such as the feeders, are those of the first session.
        lasting = self._lasting.get(device)
        if lasting is None:
            lasting = self._lasting[device] = _lasting(device)
        return lasting, self._sessions[session].shares[lasting]

    def _check_known(self, result: ShardResult) -> None:
        ids = (*result.image_ids, *(failure.image_id for failure in result.failures))
        if strangers := {image_id for image_id in ids if image_id not in self._rows}:
            raise ExecutionError(
                f"a result of images that are not in the run: {sorted(strangers)}",
                device=result.device,
            )

    def _new_part(self, result: ShardResult) -> ShardResult:
        ids = result.image_ids
        new = [row for row, image_id in enumerate(ids) if not self._is_evaluated(image_id)]
        return result if len(new) == len(ids) else part_of(result, new)

    def _keep(self, new: ShardResult) -> None:
        rows = [self._rows[image_id] for image_id in new.image_ids]
        for row, encoded_bytes in zip(rows, new.encoded_bytes, strict=True):
            self._encoded_bytes[row] = encoded_bytes
        for row, digest in zip(rows, new.digests, strict=bool(new.digests)):
            self._digests[row] = int(digest, 16)
        for row, stamp in zip(rows, new.stamps, strict=bool(new.stamps)):
            self._stamps[row] = stamp
        self._num_evaluated += len(rows)
        if self._failures:
            for image_id in new.image_ids:
                self._failures.pop(image_id, None)
        for damage in new.damaged:
            self._damaged[damage.image_id] = damage
        self._detections.add(new.detections)
        for stage, times_ns in new.durations.items():
            self._durations[stage].extend(times_ns)


def _lasting(device: DeviceReady) -> DeviceReady:
    """Returns a device without the facts that differ between sessions."""
    return replace(device, plan=replace(device.plan, node_id=""), warmup_ns=0, batch_ns=0)


def _natural(name: str) -> tuple[str, tuple[int, ...]]:
    kind, _, numbers = name.partition(":")
    return kind, tuple(map(int, numbers.split("."))) if numbers else ()
