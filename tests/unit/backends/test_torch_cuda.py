"""PyTorch's programs run on a card, with fakes of the driver and of PyTorch's CUDA."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from distributed_pose.backends.base import BackendOptions, InputBatch, NetworkOutput
from distributed_pose.backends.cuda import CudaBackend
from distributed_pose.backends.cuda_driver import CudaDriver
from distributed_pose.backends.cuda_pipeline import SLOTS, DeviceArray
from distributed_pose.backends.torch import load_model
from distributed_pose.backends.torch_cuda import TorchProgram, _Captured
from distributed_pose.model.network import LightweightOpenPose
from distributed_pose.model.torch_program import export_program
from distributed_pose.records.images import Geometry
from tests.fakes import torch_cuda
from tests.fakes.cuda import FakeLibcuda

CPU = torch.device("cpu")
EXECUTION_MS = 100.0


def batch(count: int, height: int = 32, width: int = 48, seed: int = 0) -> InputBatch:
    generator = np.random.default_rng((seed, count))
    inputs = generator.uniform(-0.5, 0.5, (count, 3, height, width)).astype(np.float32)
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs)


class HostProgram(TorchProgram):
    """A program on the fake card, whose memory is that of the host."""

    def __init__(self, content: bytes, library: FakeLibcuda, stream: int) -> None:
        model = load_model(content, BackendOptions(), CPU, {"f32": torch.float32})
        super().__init__(model, CPU, stream)
        self.library = library
        self.stream = stream
        self.tuned: list[bool] = []

    def _tensor(self, array: DeviceArray) -> torch.Tensor:
        memory = (ctypes.c_uint8 * array.num_bytes).from_address(array.address)
        return torch.frombuffer(memory, dtype=torch.float32).reshape(array.shape)

    def _forward(self, inputs_N3HW: torch.Tensor) -> list[torch.Tensor]:
        self.tuned.append(torch.backends.cudnn.benchmark)
        return super()._forward(inputs_N3HW)

    def _capture(self, inputs_N3HW: torch.Tensor) -> _Captured:
        captured = super()._capture(inputs_N3HW)

        def replay() -> None:
            assert self._model
            for output, again in zip(captured.outputs, self._model(inputs_N3HW), strict=True):
                output.copy_(again)

        captured.graph.replayed = replay  # type: ignore[attr-defined]
        return captured

    def run(self, slot: int, inputs_N3HW: DeviceArray) -> Sequence[DeviceArray]:
        outputs = super().run(slot, inputs_N3HW)
        for output in outputs:
            self.library.adopt(output.address, output.num_bytes)
        writes = [output.address for output in outputs]
        self.library.execute(self.stream, EXECUTION_MS, [inputs_N3HW.address], writes)
        return outputs

    @property
    def replays(self) -> list[int]:
        graphs: list[Any] = [captured.graph for captured in self._graphs.values()]
        return [graph.replays for graph in graphs]


class Card:
    """A backend on a fake card, with its driver and program."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.library = FakeLibcuda(1.0, 1.0)
        self.backend = CudaBackend("PyTorch", CudaDriver(0, self.library), self._make)

    def _make(self, _driver: CudaDriver, stream: int) -> HostProgram:
        self.program = HostProgram(self.content, self.library, stream)
        return self.program


@pytest.fixture(scope="module")
def network() -> LightweightOpenPose:
    torch.manual_seed(0)
    return LightweightOpenPose().eval()


@pytest.fixture(scope="module")
def content(network: LightweightOpenPose) -> bytes:
    return export_program(network, on_bytes=False)


@pytest.fixture
def card(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Card:
    torch_cuda.install(monkeypatch)
    return Card(content)


def assert_answers(card: Card, network: LightweightOpenPose, given: InputBatch) -> None:
    with torch.inference_mode():
        wanted = network(torch.from_numpy(given.inputs_N3HW))[-2:]
    for one, other in zip(card.backend.infer(given), NetworkOutput(*wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_prepared_and_other_shapes_get_the_answers_of_the_network(
    card: Card, network: LightweightOpenPose
) -> None:
    card.backend.prepare(batch(2))
    for seed, (count, height) in enumerate([(2, 32), (1, 32), (2, 32), (1, 40), (3, 32), (2, 32)]):
        assert_answers(card, network, batch(count, height, seed=seed))
    assert card.library.races == []


def test_each_slot_has_a_graph_of_the_prepared_shape_and_all_share_their_memory(
    card: Card,
) -> None:
    card.backend.prepare(batch(2))
    before = card.program.replays
    assert len(before) == SLOTS
    graphs = [captured.graph for captured in card.program._graphs.values()]
    assert {graph.pool() for graph in graphs} == {graphs[0]}
    for count in (2, 1):
        card.backend.infer(batch(count))
    assert [after - one for after, one in zip(card.program.replays, before, strict=True)] == [1, 1]


def test_kernels_are_searched_only_while_a_shape_is_prepared(card: Card) -> None:
    card.backend.prepare(batch(2))
    assert card.program.tuned
    assert all(card.program.tuned)
    card.program.tuned.clear()
    card.backend.infer(batch(1, 40))
    assert card.program.tuned == [False]
    assert not torch.backends.cudnn.benchmark


def test_preparing_another_size_frees_the_earlier_graphs(card: Card) -> None:
    for count in (1, 2, 4, 1):
        card.backend.prepare(batch(count))
        shapes = {array.shape for _, array in card.program._graphs}
        assert shapes == {(count, 3, 32, 48)}
    card.backend.close()
    assert not card.program._graphs
    assert not card.program._outputs
