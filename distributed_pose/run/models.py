"""The model of a run, checked against its inputs and its keypoint set before any device starts."""

from collections.abc import Sequence
from pathlib import Path

from distributed_pose.backends.ports import check_profile, model_input_size, select_outputs
from distributed_pose.config.schema import RunConfig
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.model.artifacts import ModelSource, load_source
from distributed_pose.model.om_file import compiled_input
from distributed_pose.model.onnx_bounds import check_bounds
from distributed_pose.model.onnx_graph import input_ports, output_ports
from distributed_pose.records.images import InputSize
from distributed_pose.records.models import ModelPort
from distributed_pose.vision.profiles import PROFILES


def load_model(
    path: Path,
    profile: str,
    refinement_stages: int = 1,
    size: InputSize | None = None,
    scales: Sequence[float] = (1.0,),
    keypoints: KeypointSet | None = None,
) -> tuple[ModelSource, InputSize]:
    """Returns the model in a file and the size of its inputs, after a check that they agree.

    Only ONNX files can be checked here; an `.om` is checked on its device.

    Args:
        path: path of the file.
        profile: name of the preprocessing profile.
        refinement_stages: number of refinement stages of a checkpoint's network.
        size: configured size of the inputs; None takes the size that the model fixes, otherwise
            that of the profile.
        scales: scale factors of the run.
        keypoints: keypoint set that the maps must have; None checks nothing.

    Raises:
        ConfigError: if stages are configured for a model that is not a checkpoint.
        SetupError: if the file is not a model, its input does not fit the profile, its outputs do
            not fit the keypoint set, or it takes far more memory than a pose network does.
    """
    source = load_source(path, refinement_stages)
    sized = PROFILES[profile].sized(size)
    if source.format == "onnx":
        inputs = input_ports(source.content)
        sized = sized.sized(size or model_input_size(inputs, sized))
        for scaled in sized.at_scales(scales):
            check_profile(inputs, scaled, str(path))
        if keypoints:
            _check_outputs(output_ports(source.content), keypoints)
        check_bounds(source.content, str(path), InputSize(*sized.nominal_input))
    elif source.format == "om":
        sized = sized.sized(size or compiled_input(source.content))
    return source, sized.size


def configured_model(
    config: RunConfig, path: Path, keypoints: KeypointSet
) -> tuple[ModelSource, InputSize]:
    """Returns the model in a file as `load_model`, with the settings of a configuration."""
    stages = config.model.refinement_stages
    return load_model(path, config.profile, stages, config.input_size, config.scales, keypoints)


def _check_outputs(outputs: Sequence[ModelPort], keypoints: KeypointSet) -> None:
    """Checks the outputs of a model, unless only a runtime can tell their shapes."""
    if all(len(port.shape) == 4 and port.shape[1] for port in outputs):
        select_outputs(outputs, keypoints)
