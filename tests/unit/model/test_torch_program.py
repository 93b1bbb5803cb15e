"""An exported PyTorch program has the outputs of its network for any batch and size."""

import io

import numpy as np
import pytest
import torch

from distributed_pose import SetupError
from distributed_pose.model.network import LightweightOpenPose
from distributed_pose.model.torch_program import export_program

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def network() -> LightweightOpenPose:
    """A network with distinct values in all tensors, including batch statistics."""
    torch.manual_seed(0)
    made = LightweightOpenPose()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return made.eval()


@pytest.fixture(scope="module", params=[False, True], ids=["floats", "bytes"])
def on_bytes(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def content(network: LightweightOpenPose, on_bytes: bool) -> bytes:
    return export_program(network, on_bytes=on_bytes)


def loaded(content: bytes) -> torch.nn.Module:
    module: torch.nn.Module = torch.export.load(io.BytesIO(content)).module(check_guards=False)
    return module


def images(shape: tuple[int, ...]) -> torch.Tensor:
    noise = np.random.default_rng(shape[0]).integers(0, 256, shape).astype(np.uint8)
    return torch.from_numpy(noise)


def test_a_program_is_the_last_stage_of_its_network_for_any_batch_and_size(
    network: LightweightOpenPose, content: bytes, on_bytes: bool
) -> None:
    program = loaded(content)
    for shape in ((1, 3, 32, 48), (4, 3, 40, 64), (2, 3, 8, 8)):
        floats = (images(shape).float() - 128) / 256
        with torch.inference_mode():
            found = program(images(shape) if on_bytes else floats)
            heatmaps, pafs = network(floats)[-2:]
        assert list(found) == ["heatmaps", "pafs"]
        torch.testing.assert_close(found["heatmaps"], heatmaps, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(found["pafs"], pafs, atol=TOLERANCE, rtol=0)


def test_a_program_cast_to_half_precision_computes_in_it(
    network: LightweightOpenPose, content: bytes, on_bytes: bool
) -> None:
    shape = (2, 3, 32, 48)
    floats = (images(shape).float() - 128) / 256
    with torch.inference_mode():
        found = loaded(content).half()(images(shape) if on_bytes else floats.half())["pafs"]
        wanted = network(floats)[-1]
    assert found.dtype == torch.float16
    assert 0 < float((found - wanted).abs().max()) < 0.01 * float(wanted.abs().max())


def test_batch_normalisation_is_folded_into_the_convolutions(content: bytes) -> None:
    program = torch.export.load(io.BytesIO(content))
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("conv2d" in name for name in operations)
    assert not [name for name in operations if "norm" in name]


def test_the_network_itself_is_not_changed(network: LightweightOpenPose) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_program(network, on_bytes=False)
    assert list(before) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_network_whose_program_gives_other_outputs_is_refused() -> None:
    broken = LightweightOpenPose().eval()
    torch.nn.init.constant_(broken.model.get_parameter("0.0.weight"), torch.nan)
    with pytest.raises(SetupError, match="heatmaps differs"):
        export_program(broken, on_bytes=False)
