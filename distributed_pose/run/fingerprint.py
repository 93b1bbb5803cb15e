"""The fingerprint of a run, which must be the same when the run is resumed."""

from functools import cache

from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import foreign_code
from distributed_pose.devices.kinds import KINDS
from distributed_pose.files.package_identity import package_identity, source_digest
from distributed_pose.run.inputs import RunInputs

# The code that detections do not depend on, since no worker or reducer calls it. They may depend
# on all other code, so that a new file or folder counts unless it is listed here.
_WITHOUT_EFFECT = ("bench", "cli", "demo", "guide", "report", "tracking")


def fingerprint(config: RunConfig, inputs: RunInputs) -> dict[str, str]:
    """Returns the digests and settings that a run's detections depend on, by name.

    Devices and engine are left out, because detections do not depend on them. Backend and batch
    size are left out although maps may differ in their last bits between them: one run may have
    devices of several kinds, and batches of several sizes. The bytes of the images are left out
    because they are compared image by image when a run is resumed.
    """
    return {
        "data.annotations": inputs.index.sha256[:16],
        "data.limit": f"{len(inputs.index.images)} of {inputs.index.num_images_listed} images",
        "data.repeat": str(config.data.repeat),
        "data.damaged": config.data.damaged,
        "model": inputs.model.sha256[:16],
        "model.refinement_stages": str(inputs.model.refinement_stages or "none"),
        "profile": config.profile,
        "input": str(inputs.selection.input_size),
        "keypoints": inputs.selection.keypoints.identity,
        "scales": str([*inputs.selection.scales]),
        "precision": _precision(config),
        "maps_dtype": config.maps_dtype,
        "code": f"{package_identity().version} {_code_digest()}{foreign_code(config)}",
    }


def _precision(config: RunConfig) -> str:
    own = {kind: config.section(kind).precision for kind in KINDS}
    return ", ".join(
        [config.precision, *(f"{kind} {value}" for kind, value in own.items() if value)]
    )


@cache
def _code_digest() -> str:
    return source_digest(without=_WITHOUT_EFFECT)
