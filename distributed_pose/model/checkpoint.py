"""Checkpoints of Lightweight OpenPose: `.pth` files with the published tensor names."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distributed_pose.errors import SetupError
from distributed_pose.files import MAX_MODEL_BYTES, read_regular
from distributed_pose.model.network import LightweightOpenPose

_NAMES_SHOWN = 4


def load_checkpoint(path: Path) -> LightweightOpenPose:
    """Returns the network with a checkpoint's weights as float32, in evaluation mode.

    Only tensors and plain containers are read: a checkpoint cannot run code. The weights may
    stand alone or under the key `state_dict`.

    Raises:
        SetupError: if the file cannot be read or is not this network; lists the tensors.
    """
    weights = _state_dict(path)
    network = LightweightOpenPose()
    expected = network.state_dict()
    if problems := _differences(expected, weights):
        hint = "model.path must be a checkpoint of Lightweight OpenPose, or an ONNX file"
        raise SetupError(f"{path} is not Lightweight OpenPose: {'; '.join(problems)}", hint)
    network.load_state_dict({name: weights[name].to(t.dtype) for name, t in expected.items()})
    return network.eval()


def _state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    hint = "model.path must be a PyTorch checkpoint that holds nothing but tensors"
    try:
        stored = io.BytesIO(read_regular(path, MAX_MODEL_BYTES))
        content: Any = torch.load(stored, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", "see model.path") from None
    # torch.load documents no exceptions: a damaged file raises whatever its parser meets first.
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().partition("\n")[0]
        raise SetupError(f"cannot load {path}: {reason}", hint) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise SetupError(f"{path} holds no state_dict", hint)
    return content


def _differences(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> list[str]:
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {list(found[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = (("missing", missing), ("surplus", surplus), ("of another shape", reshaped))
    return [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown + (", …" if len(names) > _NAMES_SHOWN else "")
