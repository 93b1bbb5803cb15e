"""PyTorch programs run on the CPU, and unsuitable programs and devices are refused."""

import io

import numpy as np
import pytest
import torch

from distributed_pose import ExecutionError, SetupError
from distributed_pose.backends.base import BackendOptions, InputBatch, NetworkOutput
from distributed_pose.backends.torch import TorchBackend, load_model
from distributed_pose.backends.torch_cuda import TorchCudaBackend, compute_exactly
from distributed_pose.devices.host import cpu_name
from distributed_pose.model.network import LightweightOpenPose
from distributed_pose.model.torch_program import export_program
from distributed_pose.records.images import Geometry

CPU = BackendOptions(variant="cpu", batch_size=4)
CUDA = BackendOptions(variant="cuda", batch_size=4)


@pytest.fixture(scope="module")
def network() -> LightweightOpenPose:
    torch.manual_seed(0)
    return LightweightOpenPose().eval()


@pytest.fixture(scope="module")
def content(network: LightweightOpenPose) -> bytes:
    return export_program(network, on_bytes=False)


@pytest.fixture(scope="module")
def content_on_bytes(network: LightweightOpenPose) -> bytes:
    return export_program(network, on_bytes=True)


def batch(count: int, height: int = 32, width: int = 48) -> InputBatch:
    inputs = np.random.default_rng(count).integers(0, 256, (count, 3, height, width))
    geometry = Geometry(height, width, 0, 0, 0, 0)
    floats = ((inputs - 128) / 256).astype(np.float32)
    return InputBatch(tuple(range(count)), (geometry,) * count, floats)


def in_bytes(batch: InputBatch) -> InputBatch:
    inputs = np.round(batch.inputs_N3HW * 256 + 128).astype(np.uint8)
    return InputBatch(batch.image_ids, batch.geometries, inputs)


def expected(network: LightweightOpenPose, batch: InputBatch) -> NetworkOutput:
    with torch.inference_mode():
        heatmaps, pafs = network(torch.from_numpy(batch.inputs_N3HW))[-2:]
    return NetworkOutput(heatmaps.numpy(), pafs.numpy())


def assert_close(found: NetworkOutput, wanted: NetworkOutput, atol: float = 1e-5) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


def test_answers_as_the_network_for_any_batch_and_size(
    content: bytes, network: LightweightOpenPose
) -> None:
    backend = TorchBackend(content, CPU)
    for given in (batch(4), batch(1), batch(2, 8, 8), batch(3, 40, 64)):
        maps = backend.infer(given)
        assert_close(maps, expected(network, given))
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in maps)


def test_takes_bytes_if_the_program_normalises_by_itself(
    content_on_bytes: bytes, network: LightweightOpenPose
) -> None:
    backend = TorchBackend(content_on_bytes, CPU)
    assert_close(backend.infer(in_bytes(batch(2))), expected(network, batch(2)))


def test_refuses_inputs_of_another_type_or_number_of_channels(
    content: bytes, content_on_bytes: bytes
) -> None:
    with pytest.raises(SetupError, match="input data is uint8, the profile's float32"):
        TorchBackend(content_on_bytes, CPU).infer(batch(1))
    with pytest.raises(SetupError, match="input data is float32, the profile's uint8"):
        TorchBackend(content, CPU).infer(in_bytes(batch(1)))
    four = InputBatch((0,), batch(1).geometries, np.zeros((1, 4, 32, 48), np.float32))
    with pytest.raises(SetupError, match=r"data \[\?, 3, \?, \?\] and the batch is \[1, 4, 32, 48"):
        TorchBackend(content, CPU).infer(four)


def test_earlier_answers_and_inputs_are_not_changed(content: bytes) -> None:
    backend, given = TorchBackend(content, CPU), batch(2)
    given.inputs_N3HW.flags.writeable = False
    first = backend.infer(given).pafs_NPHW
    copy = first.copy()
    backend.infer(InputBatch((0, 1), given.geometries, -given.inputs_N3HW))
    np.testing.assert_array_equal(first, copy)
    np.testing.assert_array_equal(given.inputs_N3HW, batch(2).inputs_N3HW)


def test_reports_its_precision_and_the_processor(content: bytes) -> None:
    backend = TorchBackend(content, CPU)
    assert backend.precision == "f32"
    assert backend.description == cpu_name()


def test_the_cpu_has_no_half_precision(content: bytes) -> None:
    with pytest.raises(SetupError, match=r"PyTorch on cpu has no native f16 \(it has f32"):
        TorchBackend(content, BackendOptions(precision="f16", variant="cpu"))


def test_uses_as_many_threads_as_it_may(content: bytes) -> None:
    before = torch.get_num_threads()
    try:
        TorchBackend(content, BackendOptions(threads=2, variant="cpu")).infer(batch(1))
        assert torch.get_num_threads() == 2
        TorchBackend(content, BackendOptions(threads=1, variant="cpu")).infer(batch(1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_can_be_closed_twice_and_refuses_batches_afterwards(content: bytes) -> None:
    backend = TorchBackend(content, CPU)
    backend.close()
    backend.close()
    with pytest.raises(SetupError, match="the backend is closed"):
        backend.infer(batch(1))


@pytest.mark.parametrize("part", ["nothing", "noise", "a half"])
def test_content_that_is_not_a_program_is_refused(content: bytes, part: str) -> None:
    broken = {"nothing": b"", "noise": b"no model", "a half": content[: len(content) // 2]}[part]
    with pytest.raises(SetupError, match="cannot load the model"):
        TorchBackend(broken, CPU)


class Other(torch.nn.Module):
    def __init__(self, heatmaps: int, *, named: bool) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [torch.nn.Conv2d(3, channels, 8, stride=8) for channels in (heatmaps, 38)]
        )
        self.named = named

    def forward(self, data: torch.Tensor) -> dict[str, torch.Tensor] | list[torch.Tensor]:
        outputs = [layer(data) for layer in self.layers]
        return dict(zip(("heatmaps", "pafs"), outputs, strict=True)) if self.named else outputs


def other_program(heatmaps: int, *, named: bool = True) -> bytes:
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(
        Other(heatmaps, named=named).eval(), (torch.zeros(2, 3, 16, 24),), dynamic_shapes=(dynamic,)
    )
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def test_a_program_with_other_outputs_is_refused_and_they_are_listed() -> None:
    with pytest.raises(SetupError, match=r"no output of 19 channels.*heatmaps.*20.*pafs.*38"):
        TorchBackend(other_program(20), CPU)
    with pytest.raises(SetupError, match="outputs have no names"):
        TorchBackend(other_program(19, named=False), CPU)


def test_a_batch_on_which_the_program_fails_is_an_execution_error() -> None:
    # The kernel of 8x8 is larger than the image.
    with pytest.raises(ExecutionError, match="PyTorch cannot run the model") as caught:
        TorchBackend(other_program(19), CPU).infer(batch(1, 4, 4))
    assert caught.value.image_ids == (0,)


def test_a_card_that_is_missing_is_a_setup_error(content: bytes) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(SetupError, match=r"finds no CUDA device \(install a build for CUDA"):
        TorchCudaBackend(content, CUDA)


@pytest.mark.parametrize("on_bytes", [False, True])
def test_a_program_in_half_precision_for_a_card_takes_and_returns_the_same_arrays(
    content: bytes, content_on_bytes: bytes, network: LightweightOpenPose, *, on_bytes: bool
) -> None:
    program = content_on_bytes if on_bytes else content
    model = load_model(program, BackendOptions("f16"), torch.device("cpu"), {"f16": torch.float16})
    given = in_bytes(batch(2)) if on_bytes else batch(2)
    with torch.inference_mode():
        outputs = model(torch.from_numpy(given.inputs_N3HW))
    assert model.precision == "f16"
    assert all(output.dtype == torch.float16 and output.is_contiguous() for output in outputs)
    wanted = expected(network, batch(2))
    assert_close(NetworkOutput(*(output.numpy() for output in outputs)), wanted, 1e-3)
    assert np.abs(outputs[1].numpy() - wanted.pafs_NPHW).max() > 0


def test_float32_is_not_computed_in_tf32_and_kernels_are_not_searched() -> None:
    compute_exactly()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.benchmark
