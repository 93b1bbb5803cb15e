"""Checkpoints of Lightweight OpenPose, as training frameworks save them.

The network's tensors are found by their published names. Another network, and a part of the
network, are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distributed_pose.errors import SetupError, shown
from distributed_pose.model.architecture import Weights, map_channels, tensor_shapes
from distributed_pose.model.checkpoint_file import read_file
from distributed_pose.model.state_dict import (
    COUNTER,
    STATE_DICT,
    StateDict,
    find_state_dict,
    listed,
    stage_of,
)

_HINT = (
    "model.path must be a checkpoint of Lightweight OpenPose, with its weights alone or under "
    f"{STATE_DICT}, or an ONNX file"
)

_MAX_UNUSED = 20


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a checkpoint, and a description of the file.

    Attributes:
        weights: weights of the network, by their published names.
        refinement_stages: number of refinement stages of the network.
        unused: names of the other entries in the file, shortened for the user.
        notes: sentences for the user about the file.
    """

    weights: Weights
    refinement_stages: int
    unused: tuple[str, ...]
    notes: tuple[str, ...]


def load_checkpoint(content: bytes, path: str, refinement_stages: int = 1) -> Checkpoint:
    """Returns the network's weights in a checkpoint, which can be for any keypoint set.

    Args:
        content: content of a file of `torch.save` in the zip or the legacy format, of a safetensors
            file, or of an ONNX checkpoint (`export.write_checkpoint`).
        path: path of the file, for messages.
        refinement_stages: number of the file's refinement stages that the network gets.

    Raises:
        SetupError: if the file cannot be read, is not this network, has fewer stages, or has
            weights that are not finite floating-point numbers; the message names the tensors. Also
            if PyTorch, which reads its own files, is not installed.
    """
    of_one_stage = {name for name in tensor_shapes() if (stage_of(name) or 0) < 1}
    found = find_state_dict(read_file(content, path), of_one_stage, path)
    shapes = {name: tensor.shape for name, tensor in found.tensors.items()}
    expected = tensor_shapes(refinement_stages, map_channels(shapes))
    stages = found.num_stages
    least = max(1, min(stages, refinement_stages))
    _check_same(
        {n: shape for n, shape in expected.items() if (stage_of(n) or 0) < least}, found, path
    )
    if stages < refinement_stages:
        raise SetupError(
            f"{path} has {stages} refinement stage{'s' * (stages > 1)}, and "
            f"model.refinement_stages asks for {refinement_stages}",
            f"set model.refinement_stages={stages}",
        )
    weights = {name: found.tensors[name].float32() for name in expected}
    _check_values(weights, path)
    unused, notes = _unused(found, refinement_stages), _notes(found, refinement_stages)
    return Checkpoint(weights, refinement_stages, unused, notes)


def _check_same(expected: Mapping[str, tuple[int, ...]], found: StateDict, path: str) -> None:
    """Checks the names, shapes and types of all tensors."""
    tensors = found.tensors
    used = {stage_of(name) for name in expected}
    surplus = [
        found.prefix + name
        for name in tensors
        if name not in expected and not name.endswith(COUNTER) and stage_of(name) in used
    ]
    present = [name for name in expected if name in tensors]
    plain = [name for name in present if tensors[name].holds_weights]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "surplus": [*surplus, *found.stray],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(expected[name])}"
            for name in plain
            if tensors[name].shape != expected[name]
        ],
        "of a type that holds no weights": [
            f"{name} is {tensors[name].kind}" for name in present if name not in plain
        ],
    }
    differences = [
        f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names
    ]
    if differences:
        raise SetupError(f"{path} is not Lightweight OpenPose: {'; '.join(differences)}", _HINT)


def _check_values(weights: Weights, path: str) -> None:
    wrong = [name for name, array in weights.items() if not np.isfinite(array).all()]
    if wrong:
        raise SetupError(
            f"{path} has values that are not finite in {len(wrong)} tensors: {listed(wrong)}",
            "the training diverged, or the file is damaged: give an earlier snapshot",
        )
    variances = (name for name in weights if name.endswith("running_var"))
    if negative := [name for name in variances if (weights[name] < 0).any()]:
        raise SetupError(
            f"{path} has variances below zero: {listed(negative)}", "the file is damaged"
        )


def _unused(found: StateDict, refinement_stages: int) -> tuple[str, ...]:
    later = (stage for stage in found.stage_numbers if stage >= refinement_stages)
    names = [f"{found.prefix}refinement_stages.{stage}" for stage in later]
    names += [*found.copies, *found.beside]
    more = len(names) - _MAX_UNUSED
    first = tuple(shown(name) for name in names[:_MAX_UNUSED])
    return (*first, f"and {more} more") if more > 0 else first


def _notes(found: StateDict, refinement_stages: int) -> tuple[str, ...]:
    """Returns one line for the terminal per property of the file that can change a score."""
    notes = []
    if any(stage >= refinement_stages for stage in found.stage_numbers):
        used = f"{refinement_stages} of {len(found.stage_numbers)} refinement stages"
        notes.append(f"Checkpoint: {used} used, the others are left out.")
    if found.key not in {"", STATE_DICT}:
        notes.append(f"Checkpoint: the weights are those under {shown(found.key)}.")
    if found.prefix:
        prefix = shown(found.prefix)
        notes.append(f"Checkpoint: the prefix {prefix} was removed from all names.")
    if found.copies:
        notes.append(f"Checkpoint: other copies of the network not used: {listed(found.copies)}.")
    return tuple(notes)
