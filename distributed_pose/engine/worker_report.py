"""The report of a worker to the driver about a shard."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from distributed_pose.engine.preparation import Prepared
from distributed_pose.records.facts import WorkerReadings
from distributed_pose.records.images import Damage, Failure
from distributed_pose.records.stages import Durations


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReport:
    """The report of a worker to the driver about one shard.

    Attributes:
        image_ids: ids of the images that have maps.
        encoded_bytes: file size in bytes of each image in `image_ids`.
        failures: images that could not be decoded, or not be read if the worker reads them.
        durations: durations in nanoseconds by stage. `decode_jpeg` and `preprocess` have one per
            image, and so has `read` if the worker reads; `copy_in`, `compute`, `copy_out` and
            `check` have one per batch.
        pack_ns: time in nanoseconds to pack the maps into Arrow record batches.
        maps_bytes: size in bytes of the Arrow record batches of maps.
        damaged: images that have maps although their file is damaged.
        digests: digest of the encoded bytes of each image in `image_ids`.
        batches: fields of a `BatchTimes` for each batch, in the order of `durations`.
        readings: readings of the worker's process so far; None if a recent report has them.
    """

    image_ids: tuple[int, ...]
    encoded_bytes: tuple[int, ...]
    failures: tuple[Failure, ...]
    durations: Durations
    pack_ns: int = 0
    maps_bytes: int = 0
    damaged: tuple[Damage, ...] = ()
    digests: tuple[str, ...] = ()
    batches: tuple[tuple[int, ...], ...] = field(default=(), compare=False)
    readings: WorkerReadings | None = field(default=None, compare=False)


def report_of(prepared: Prepared, durations: Mapping[str, Sequence[int]]) -> WorkerReport:
    """Returns the report about one batch.

    Args:
        prepared: prepared images of the batch.
        durations: durations in nanoseconds by stage.
    """
    # At several scales, an image is in several batches.
    image_ids = tuple(dict.fromkeys(chain.from_iterable(b.image_ids for b in prepared.batches)))
    return WorkerReport(
        image_ids=image_ids,
        encoded_bytes=tuple(prepared.encoded_bytes[image_id] for image_id in image_ids),
        failures=tuple(prepared.failures),
        durations={stage: tuple(times_ns) for stage, times_ns in durations.items()},
        damaged=tuple(prepared.damaged),
        digests=tuple(prepared.digests[image_id] for image_id in image_ids),
    )


def joined_reports(
    reports: Sequence[WorkerReport], readings: WorkerReadings | None
) -> WorkerReport:
    """Returns the report about a shard from those about its batches.

    Args:
        reports: reports about the batches.
        readings: readings to send with the report; None for none.
    """
    durations: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for report in reports:
        for stage, times_ns in report.durations.items():
            durations[stage] += times_ns
    return WorkerReport(
        image_ids=tuple(chain.from_iterable(report.image_ids for report in reports)),
        encoded_bytes=tuple(chain.from_iterable(report.encoded_bytes for report in reports)),
        failures=tuple(chain.from_iterable(report.failures for report in reports)),
        durations=dict(durations),
        damaged=tuple(chain.from_iterable(report.damaged for report in reports)),
        digests=tuple(chain.from_iterable(report.digests for report in reports)),
        batches=tuple(chain.from_iterable(report.batches for report in reports)),
        readings=readings,
    )
