"""The results of shards, and the times of their steps."""

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, TypeVar

from distributed_pose.records.images import Damage, Failure
from distributed_pose.records.stages import Durations

_T = TypeVar("_T")

# One value per image of `ShardResult.image_ids`, in that order; an empty tuple if none is known.
PerImage = Annotated[tuple[_T, ...], "per image"]


class BatchTimes(NamedTuple):
    """When one batch was at which step, in nanoseconds of the monotonic clock of its worker's node.

    Attributes:
        images: number of images; at several scales, an image counts in the batch of its first one.
        prepare_ns: start of preparing its images, alone or together with those of other batches.
        prepared_ns: end of preparing, and start of waiting for the device.
        started_ns: time at which the device was given the batch.
        answered_ns: time at which the device's answer was collected.
        finish_ns: start of packing the maps, or of grouping them.
        finished_ns: end of packing or grouping.
    """

    images: int
    prepare_ns: int
    prepared_ns: int
    started_ns: int
    answered_ns: int
    finish_ns: int
    finished_ns: int


class ShardTimes(NamedTuple):
    """When one shard was at which step, in seconds of the driver's monotonic clock.

    Attributes:
        sent_s: time at which the shard was sent to its worker.
        answered_s: time at which the answer of the worker was there.
        reducer: name of the reducer; empty where the worker grouped the maps.
        reduce_s: time at which the maps were given to the reducer; 0 without one.
        reduced_s: time at which the answer of the reducer was there; 0 without one.
        batches: fields of a `BatchTimes` for each batch, by the clock of the worker's node. They
            travel as plain tuples, which the driver unpickles in a sixth of the time.
    """

    sent_s: float
    answered_s: float
    reducer: str = ""
    reduce_s: float = 0.0
    reduced_s: float = 0.0
    batches: tuple[tuple[int, ...], ...] = ()

    @property
    def batch_times(self) -> tuple[BatchTimes, ...]:
        """Times of each batch by the clock of the worker's node."""
        return tuple(map(BatchTimes._make, self.batches))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """The result of one shard.

    Attributes:
        device: name of the device that ran the model.
        image_ids: ids of the images that have a result, including those without detections.
        detections: serialised Arrow record batch, schema `data.shards.DETECTIONS`.
        failures: images without a result.
        durations: raw durations by stage.
        encoded_bytes: file size of each image that has a result.
        damaged: images with a result whose file is damaged.
        digests: digest of the bytes of each image that has a result; see
            `data.digests.content_digest`.
        stamps: stamp of each of these images before it was read (see `ImageSource.stamps`), empty
            for an image without one; an empty tuple where none is known.
        times: times of the steps, which the ledger's files do not keep; None if they are not known.
    """

    device: str
    image_ids: PerImage[int]
    detections: bytes
    failures: tuple[Failure, ...] = ()
    durations: Durations = field(default_factory=dict)
    encoded_bytes: PerImage[int] = ()
    damaged: tuple[Damage, ...] = ()
    digests: PerImage[str] = ()
    stamps: PerImage[str] = ()
    times: ShardTimes | None = field(default=None, compare=False)
