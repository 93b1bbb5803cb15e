"""Checks the answers of workers and reducers, and joins them into results."""

from dataclasses import replace

from distributed_pose.data.shards import Shard, detected_images, image_records, no_detections
from distributed_pose.engine.reducer import Reduction
from distributed_pose.engine.worker_report import WorkerReport
from distributed_pose.errors import ExecutionError, PoseEvalError
from distributed_pose.locations import redacted
from distributed_pose.records.images import Failure
from distributed_pose.records.shards import ShardResult, ShardTimes


def check_report(shard: Shard, report: WorkerReport) -> None:
    """Checks that a report covers each image of its shard, and no other image.

    Raises:
        ExecutionError: if the report lacks an image, or has one that is not in the shard.
    """
    answered = (*report.image_ids, *(failure.image_id for failure in report.failures))
    asked = shard.image_ids
    # Most answers are in the order of the shard.
    is_whole = answered == asked or sorted(answered) == sorted(asked)
    if not is_whole or not (
        len(report.encoded_bytes) == len(report.digests) == len(report.image_ids)
    ):
        raise ExecutionError(f"answered for images {sorted(answered)} instead of {sorted(asked)}")


def check_reduction(report: WorkerReport, reduction: Reduction) -> None:
    """Checks that a reduction covers the images that have maps, and no other images.

    Raises:
        ExecutionError: if the reduction has other images, or detections in other or failed images.
    """
    asked, answered = report.image_ids, reduction.image_ids
    if asked != answered and sorted(asked) != sorted(answered):
        raise ExecutionError(f"grouped images {sorted(answered)} instead of {sorted(asked)}")
    if strangers := {*reduction.failures} - set(asked):
        raise ExecutionError(f"failed with images {sorted(strangers)}, which it was not given")
    found = detected_images(reduction.detections)
    if strangers := found - set(asked):
        raise ExecutionError(f"found people in images {sorted(strangers)}, which it was not given")
    if both := found & {*reduction.failures}:
        raise ExecutionError(f"found people in images {sorted(both)}, which it failed with")


def with_failures(shard: Shard, report: WorkerReport, reduction: Reduction) -> WorkerReport:
    """Returns a report in which the images that could not be grouped are failures.

    Args:
        shard: the shard.
        report: report of the worker.
        reduction: checked reduction of the maps.
    """
    if not reduction.failures:
        return report
    rows = [row for row, image in enumerate(report.image_ids) if image not in reduction.failures]
    failures = tuple(
        Failure(image.image_id, image.file_name, reduction.failures[image.image_id])
        for image in image_records(shard.images)
        if image.image_id in reduction.failures
    )
    return replace(
        report,
        image_ids=tuple(report.image_ids[row] for row in rows),
        encoded_bytes=tuple(report.encoded_bytes[row] for row in rows),
        digests=tuple(report.digests[row] for row in rows),
        damaged=tuple(one for one in report.damaged if one.image_id not in reduction.failures),
        failures=report.failures + failures,
    )


def shard_result(
    device: str,
    shard: Shard,
    report: WorkerReport,
    reduction: Reduction,
    times: ShardTimes | None = None,
) -> ShardResult:
    """Returns the result of a shard, joined from the worker's report and the reduction.

    Args:
        device: name of the device.
        shard: the shard.
        report: report of the worker.
        reduction: detections of the images that have maps.
        times: times of the shard; None if they are not known.
    """
    return ShardResult(
        device=device,
        image_ids=report.image_ids,
        detections=reduction.detections,
        failures=shard.failures + report.failures,
        durations={
            "read": shard.read_ns,
            **report.durations,
            "transfer": (report.pack_ns + reduction.unpack_ns,) if report.pack_ns else (),
            **reduction.durations,
        },
        encoded_bytes=report.encoded_bytes,
        damaged=report.damaged,
        digests=report.digests,
        times=times,
    )


def failed_result(device: str, failures: tuple[Failure, ...]) -> ShardResult:
    """Returns a result that has only failures, of images that are not tried again."""
    return ShardResult(device=device, image_ids=(), detections=no_detections(), failures=failures)


def describe(error: BaseException) -> str:
    """Returns the message of an exception as one line for the report, without credentials."""
    text = error.message if isinstance(error, PoseEvalError) else repr(error)
    return redacted(" ".join(text.split()))
