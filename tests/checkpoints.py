"""Checkpoints for tests, in the forms in which people bring them."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from distributed_pose.demo.default import WEIGHTS
from distributed_pose.model import network
from distributed_pose.model.checkpoint import Checkpoint, load_checkpoint
from distributed_pose.model.export import export_onnx
from distributed_pose.model.network import LightweightOpenPose

State = dict[str, torch.Tensor]


def network_in(path: Path, refinement_stages: int = 1) -> LightweightOpenPose:
    """Returns the network in a checkpoint file."""
    return network_of(load_checkpoint(path.read_bytes(), str(path), refinement_stages))


def network_of(checkpoint: Checkpoint) -> LightweightOpenPose:
    """Returns the network with the weights of a checkpoint."""
    return network.network_of(checkpoint.weights, checkpoint.refinement_stages)


def exported(path: Path, refinement_stages: int = 1) -> bytes:
    """Returns the last stage of the network in a checkpoint file as ONNX."""
    found = load_checkpoint(path.read_bytes(), str(path), refinement_stages)
    return export_onnx(found.weights, refinement_stages=refinement_stages, last_stage=True)


def demo_state() -> State:
    """Returns the demo's weights as float32."""
    return {name: tensor.clone() for name, tensor in network_in(WEIGHTS).state_dict().items()}


def three_stages(state: Mapping[str, torch.Tensor]) -> State:
    """Returns weights with two more refinement stages, each a little different from the first."""
    stages = {
        name.replace("stages.0.", f"stages.{number}."): tensor * (1 - 0.02 * number)
        for number in (1, 2)
        for name, tensor in state.items()
        if name.startswith("refinement_stages.0.") and tensor.is_floating_point()
    }
    return {**state, **stages}


def snapshot(state: Mapping[str, torch.Tensor], **beside: object) -> dict[str, object]:
    """Returns a snapshot as the reference's train.py saves it."""
    optimizer = {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1}]}
    content = {"state_dict": state, "optimizer": optimizer, "scheduler": {"last_epoch": 3}}
    return {**content, "iter": 370000, "current_epoch": 250, **beside}


def saved(content: object, *, zipped: bool = True, protocol: int = 2) -> bytes:
    """Returns a file of `torch.save`, in the zip or the legacy format."""
    stream = io.BytesIO()
    torch.save(content, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()
