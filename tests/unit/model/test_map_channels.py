"""Networks for other keypoint sets: their checkpoints show how many heatmaps and PAFs they have."""

import io
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from distributed_pose import SetupError
from distributed_pose.model.architecture import MapChannels, Weights, tensor_shapes
from distributed_pose.model.checkpoint import load_checkpoint
from distributed_pose.model.export import export_onnx, write_checkpoint
from distributed_pose.model.network import LightweightOpenPose, network_of

SIX = MapChannels(7, 10)
# The smallest set, six keypoints, a hand, and a hundred keypoints.
CHANNELS = [MapChannels(3, 2), SIX, MapChannels(22, 40), MapChannels(101, 198)]


def weights_for(channels: MapChannels, stages: int = 1) -> Weights:
    generator = np.random.default_rng(0)
    return {
        name: np.abs(generator.normal(0, 0.05, shape)).astype(np.float32)
        for name, shape in tensor_shapes(stages, channels).items()
    }


def saved(weights: Weights) -> bytes:
    stream = io.BytesIO()
    tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    torch.save({"state_dict": tensors}, stream)
    return stream.getvalue()


def output_channels(content: bytes) -> list[int]:
    outputs = onnx.load_model_from_string(content).graph.output
    return [output.type.tensor_type.shape.dim[1].dim_value for output in outputs]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("stages", [1, 2])
def test_a_network_for_a_set_has_the_tensors_that_its_checkpoint_must_have(
    channels: MapChannels, stages: int
) -> None:
    with torch.device("meta"):
        state = LightweightOpenPose(stages, channels).state_dict()
    found = {name: tuple(t.shape) for name, t in state.items() if "tracked" not in name}
    assert found == tensor_shapes(stages, channels)


@pytest.mark.parametrize("channels", [SIX, MapChannels(22, 40)])
def test_a_checkpoint_of_any_set_becomes_onnx_with_the_outputs_of_the_network(
    channels: MapChannels,
) -> None:
    weights = load_checkpoint(saved(weights_for(channels)), "six.pth").weights
    content = export_onnx(weights)
    assert output_channels(content) == [*channels] * 2
    image = np.random.default_rng(1).normal(0, 0.2, (1, 3, 32, 32)).astype(np.float32)
    found = onnxruntime.InferenceSession(content).run(None, {"data": image})
    with torch.inference_mode():
        expected = network_of(weights, 1)(torch.from_numpy(image))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-4)


def test_an_onnx_checkpoint_of_another_set_has_the_weights_that_were_written() -> None:
    weights = weights_for(SIX)
    again = load_checkpoint(write_checkpoint(weights), "six.onnx").weights
    assert again.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(again[name], weight.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("refinement_stages.0.heatmaps.1.0.weight", (19, 128, 1, 1)),
        ("refinement_stages.0.trunk.0.initial.0.weight", (128, 185, 1, 1)),
        ("initial_stage.pafs.1.0.bias", (38,)),
    ],
)
def test_a_checkpoint_whose_parts_are_of_different_sets_is_refused(
    name: str, shape: tuple[int, ...]
) -> None:
    weights = {**weights_for(SIX), name: np.zeros(shape, np.float32)}
    with pytest.raises(SetupError, match=f"1 of another shape: {re.escape(name)}"):
        load_checkpoint(saved(weights), "mixed.pth")


def test_a_head_without_channels_is_refused() -> None:
    name = "initial_stage.heatmaps.1.0.weight"
    weights = {**weights_for(SIX), name: np.zeros((0, 512, 1, 1), np.float32)}
    with pytest.raises(SetupError, match="another shape"):
        load_checkpoint(saved(weights), "empty.pth")
