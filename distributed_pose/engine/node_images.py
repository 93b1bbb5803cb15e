"""The images that a worker reads on its node, and their preparation in its own process."""

from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import ImageSource, open_images
from distributed_pose.engine.host_stages import host_stages
from distributed_pose.engine.preparation import Preparation
from distributed_pose.engine.trials import NO_IMAGE
from distributed_pose.errors import SetupError
from distributed_pose.records.devices import DevicePlan, ImagesToRead, WorkerSpec
from distributed_pose.records.images import Failure, ImageRecord
from distributed_pose.vision.profiles import PROFILES


def local_preparation(spec: WorkerSpec) -> Preparation:
    """Returns the preparation of a worker's images in the threads of this process.

    Args:
        spec: specification of the worker.

    Raises:
        SetupError: if the worker reads the images and its node does not have them.
    """
    return Preparation(
        PROFILES[spec.profile].sized(spec.input_size),
        host_stages(spec.simulation.host, spec.keypoints),
        _source(spec),
        scales=spec.scales,
        fails_damaged=spec.damaged == "fail",
    )


def _source(spec: WorkerSpec) -> ImageSource | None:
    """Returns the images that a worker reads; None if it reads none, or need not and cannot."""
    if spec.images is None:
        return None
    try:
        return _open_images(spec.images, spec.plan)
    except SetupError:
        if spec.images.is_required:
            raise
        return None


def _open_images(images: ImagesToRead, plan: DevicePlan) -> ImageSource:
    """Returns the source of the images that a worker reads.

    Raises:
        SetupError: if the node of the worker does not have the images.
    """
    where = f"on node {plan.node}: " if plan.node else ""
    hint = "all nodes must see the images in the same place, or set data.read=driver"
    try:
        source = open_images(images.location)
    except SetupError as error:
        raise SetupError(f"{where}{error.message}", hint, device=plan.name) from None
    if images.sample:
        answer = read_image(ImageRecord(NO_IMAGE, images.sample, 0, 0), source)
        if isinstance(answer, Failure):
            raise SetupError(f"{where}{answer.reason}", hint, device=plan.name)
    return source
