"""Checks that a resumed run has the same images, and devices of the same precision."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from distributed_pose.config.selection import Selection
from distributed_pose.data.digests import content_digest
from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import ImageSource
from distributed_pose.errors import SetupError
from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.images import Failure, ImageRecord
from distributed_pose.records.shards import ShardResult
from distributed_pose.run.inputs import RunInputs
from distributed_pose.run.ledger import EvaluatedImage, Ledger

_OTHER_FOLDER = "choose another --output, or --restart to replace the run"

# A request to an object store takes tens of milliseconds, so several are sent at once.
_THREADS = 8


def check_images(ledger: Ledger, inputs: RunInputs) -> None:
    """Checks that the images with results have not changed since they were evaluated.

    Reads only images whose file was written or replaced since then, or whose stamp is unknown.

    Args:
        ledger: results so far.
        inputs: inputs of the run.

    Raises:
        SetupError: if an image has other content, or is missing or unreadable.
    """
    kept = [
        (image, then) for image in inputs.index.images if (then := ledger.evaluated(image.image_id))
    ]
    stamps = image_stamps([image for image, _ in kept], inputs.images)
    # A file that is listed several times is read once.
    suspects = {
        (image.file_name, then.digest): (image, then)
        for image, then in kept
        if not stamps[image.image_id] or stamps[image.image_id] != then.stamp
    }
    with ThreadPoolExecutor(_THREADS) as threads:
        changes = threads.map(lambda one: _change(one[0], one[1], inputs), suspects.values())
        for (image, _), change in zip(suspects.values(), changes, strict=True):
            if change:
                threads.shutdown(wait=False, cancel_futures=True)
                where = inputs.images.location.within(image.file_name)
                raise SetupError(
                    f"{where} has changed since the run was started: {change}", _OTHER_FOLDER
                )


def check_precisions(ledger: Ledger, devices: Sequence[DeviceReady], selection: Selection) -> None:
    """Checks that the devices of a session compute in precisions that the run already has.

    A new precision is accepted if the selection names the precision of each device kind.

    Args:
        ledger: results so far, with their devices.
        devices: devices of the session.
        selection: selection of the run.

    Raises:
        SetupError: if a device would compute in a new precision.
    """
    before = [figures.device for figures in ledger.devices if figures.images]
    then = {device.precision: device for device in before}
    new = [device for device in devices if device.precision not in then]
    kinds = {device.plan.kind for device in (*before, *new)}
    are_named = all(selection.kinds[kind].precision != "auto" for kind in kinds)
    if not before or not new or are_named:
        return
    raise SetupError(
        f"the results so far are in {_named(then.values())}, and those of this session would be in "
        f"{_named({device.precision: device for device in new}.values())}",
        "use devices as before, or set precision and --restart to replace the run",
    )


def image_stamps(images: Sequence[ImageRecord], source: ImageSource) -> dict[int, str]:
    """Returns the stamps of images by image id; to be called before any image is read."""
    stamps = source.stamps({image.file_name for image in images})
    return {image.image_id: stamps.get(image.file_name, "") for image in images}


def stamped(result: ShardResult, stamps: Mapping[int, str]) -> ShardResult:
    """Returns a result with the stamps of its images.

    Args:
        result: result of a shard.
        stamps: stamps by image id.
    """
    return replace(result, stamps=tuple(stamps.get(number, "") for number in result.image_ids))


def _named(devices: Iterable[DeviceReady]) -> str:
    return " and ".join(
        f"{device.precision} ({device.backend} on {device.plan.name})" for device in devices
    )


def _change(image: ImageRecord, then: EvaluatedImage, inputs: RunInputs) -> str:
    """Returns how an image differs from the evaluated one; empty if it does not."""
    now = inputs.images.size(image.file_name)
    if now != then.encoded_bytes:
        return f"it had {then.encoded_bytes} bytes and has {'none' if now is None else now}"
    content = read_image(image, inputs.images)
    if isinstance(content, Failure):
        return content.reason
    is_same = content_digest(content) == then.digest
    return "" if is_same else f"it has other content, of {then.encoded_bytes} bytes as before"
