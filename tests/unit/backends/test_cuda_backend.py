"""Batches on CUDA devices: a fake of the driver, and ONNX Runtime on the CPU as what it executes.

The fake's device memory is the host's, where sessions on the CPU can be bound to it as those on a
card are bound to a card's.
"""

from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose import ExecutionError, SetupError
from distributed_pose.backends.base import InputBatch, NetworkOutput
from distributed_pose.backends.cuda import CudaBackend, open_driver
from distributed_pose.backends.cuda_driver import CudaDriver, CudaError
from distributed_pose.backends.cuda_pipeline import DeviceArray, Shape
from distributed_pose.backends.onnxruntime_cuda import SessionProgram
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.records.images import Geometry
from tests.fakes import cuda as fakes
from tests.fakes.cuda import FakeLibcuda
from tests.tiny_models import random_model, save_constant_model, with_halves

EXECUTION_MS, COPY_MS = 4.5, 1.0


def batch(count: int, height: int = 32, width: int = 48, seed: int = 0) -> InputBatch:
    generator = np.random.default_rng((seed, count))
    inputs = generator.uniform(-0.5, 0.5, (count, 3, height, width)).astype(np.float32)
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs)


class TimedProgram(SessionProgram):
    """A program whose execution takes time on the clock of the fake."""

    def __init__(
        self, models: dict[int, bytes], library: FakeLibcuda, driver: CudaDriver, stream: int
    ) -> None:
        self.library = library
        self.stream = stream
        self.execution_ms = EXECUTION_MS
        self.executed: list[Shape] = []
        self.opened: list[int] = []
        super().__init__(models, self.open_model, driver, coco_body(), ("cpu", 0))

    def open_model(self, content: bytes) -> tuple[onnxruntime.InferenceSession, str]:
        self.opened.append(len(content))
        return session_of(content), "f32"

    def run(self, slot: int, inputs_N3HW: DeviceArray) -> Sequence[DeviceArray]:
        outputs = super().run(slot, inputs_N3HW)
        self.executed.append(inputs_N3HW.shape)
        reads, writes = [inputs_N3HW.address], [output.address for output in outputs]
        self.library.execute(self.stream, self.execution_ms, reads, writes)
        return outputs


class Card:
    """A backend on a fake card, with its driver and program."""

    def __init__(
        self, content: bytes | dict[int, bytes], library: FakeLibcuda | None = None
    ) -> None:
        self.library = library or FakeLibcuda(COPY_MS, COPY_MS)
        self.models = content if isinstance(content, dict) else {8: content}
        self.backend = CudaBackend("ONNX Runtime", CudaDriver(0, self.library), self._make)

    def _make(self, driver: CudaDriver, stream: int) -> TimedProgram:
        self.program = TimedProgram(self.models, self.library, driver, stream)
        return self.program


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return random_model(tmp_path_factory.mktemp("models") / "random.onnx")


@pytest.fixture
def card(content: bytes) -> Card:
    return Card(content)


@cache
def session_of(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def expected(content: bytes, given: InputBatch) -> NetworkOutput:
    session = session_of(content)
    return NetworkOutput(*session.run(["heatmaps", "pafs"], {"data": given.inputs_N3HW}))


def assert_same(found: NetworkOutput, wanted: NetworkOutput) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_answers_as_the_model_does_for_any_sequence_of_shapes(card: Card, content: bytes) -> None:
    for count, height in ((2, 32), (2, 32), (1, 32), (2, 32), (3, 64), (3, 64)):
        given_batch = batch(count, height, seed=height)
        assert_same(card.backend.infer(given_batch), expected(content, given_batch))
    assert card.library.races == []


def test_copies_and_execution_overlap_and_compute_is_the_execution_alone(card: Card) -> None:
    card.backend.prepare(batch(4))
    start_ms, times = card.library.host_ms, []
    in_flight = 0
    for number in range(40):
        if in_flight == card.backend.slots:
            times.append(card.backend.collect().times)
            in_flight -= 1
        card.backend.submit(batch(4, seed=number))
        in_flight += 1
    times += [card.backend.collect().times for _ in range(in_flight)]
    elapsed_ms = card.library.host_ms - start_ms
    assert {time.compute_ns for time in times} == {4_500_000}
    assert all(time.copy_in_ns >= 1_000_000 <= time.copy_out_ns for time in times)
    assert 40 / elapsed_ms > 0.95 / EXECUTION_MS
    assert card.library.races == []


@given(
    milliseconds=st.tuples(*[st.floats(0, 10)] * 3),
    steps=st.lists(st.one_of(st.just("collect"), st.integers(1, 5)), max_size=30),
    prepared=st.sampled_from([0, 2, 4]),
)
def test_answers_come_in_order_without_races_for_any_timing_of_calls(
    content: bytes,
    milliseconds: tuple[float, float, float],
    steps: list[str | int],
    prepared: int,
) -> None:
    card = Card(content, FakeLibcuda(milliseconds[0], milliseconds[1]))
    # The first batch warms the card up.
    card.program.execution_ms = 500.0
    if prepared:
        card.backend.prepare(batch(prepared))
    card.program.execution_ms = milliseconds[2]
    in_flight: deque[InputBatch] = deque()
    for number, step in enumerate(steps):
        if isinstance(step, int) and len(in_flight) < card.backend.slots:
            # The input sizes differ, too.
            in_flight.append(batch(step, 32 + 8 * (step % 2), seed=number))
            card.backend.submit(in_flight[-1])
        elif in_flight:
            wanted = expected(content, in_flight.popleft())
            for one, other in zip(card.backend.collect().maps, wanted, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)
    assert card.library.races == []


class TestPreparing:
    def test_runs_long_enough_for_the_clocks_to_rise(self, card: Card) -> None:
        card.backend.prepare(batch(4))
        executed_ms = len(card.program.executed) * EXECUTION_MS
        assert 500 <= executed_ms < 600
        card.program.executed.clear()
        card.backend.prepare(batch(2))
        assert len(card.program.executed) < 10

    def test_ragged_batches_are_filled_up_to_the_prepared_size(
        self, card: Card, content: bytes
    ) -> None:
        card.backend.prepare(batch(4))
        card.program.executed.clear()
        for count in (1, 3, 4):
            found = card.backend.infer(batch(count))
            for one, other in zip(found, expected(content, batch(count)), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)
        assert set(card.program.executed) == {(4, 3, 32, 48)}

    def test_the_filling_of_a_batch_has_no_values_that_its_last_image_does_not_have(
        self, tmp_path: Path
    ) -> None:
        mixing = save_constant_model(tmp_path / "mixing.onnx", 0.5, mixing=True).read_bytes()
        card = Card(mixing)
        card.backend.prepare(batch(4))
        found = card.backend.infer(batch(1))
        for one, other in zip(found, expected(mixing, batch(1)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_other_input_sizes_and_larger_batches_run_unfilled(self, card: Card) -> None:
        card.backend.prepare(batch(4))
        card.program.executed.clear()
        card.backend.infer(batch(2, 64))
        card.backend.infer(batch(5))
        assert card.program.executed == [(2, 3, 64, 48), (5, 3, 32, 48)]

    def test_each_size_of_a_sweep_runs_unfilled(self, card: Card) -> None:
        for count in (1, 2, 4, 2):
            card.backend.prepare(batch(count))
            card.program.executed.clear()
            card.backend.infer(batch(count))
            assert card.program.executed == [(count, 3, 32, 48)]

    def test_each_size_is_measured_on_the_smallest_engine_that_takes_it(
        self, content: bytes
    ) -> None:
        def labelled(size: int) -> bytes:
            model = onnx.load_model_from_string(content)
            model.doc_string = "x" * size
            return bytes(model.SerializeToString())

        engines = {size: labelled(size) for size in (1, 4, 8)}
        card = Card(engines)
        for count in (1, 3, 4, 5, 9):
            card.program.opened.clear()
            card.backend.prepare(batch(count))
            fitting = {1: 1, 3: 4, 4: 4, 5: 8, 9: 8}[count]
            assert card.program.opened == [len(engines[fitting])]
            assert list(card.program._sessions) == [fitting]


def test_input_arrays_are_only_read_and_answers_belong_to_the_caller(card: Card) -> None:
    given_batch = batch(2)
    given_batch.inputs_N3HW.flags.writeable = False
    first = card.backend.infer(given_batch)
    copies = [array.copy() for array in first]
    for seed in range(1, 4):
        card.backend.infer(batch(2, seed=seed))
    assert_same(first, NetworkOutput(*copies))


def test_halves_are_copied_as_halves(content: bytes) -> None:
    halves = with_halves(content)
    card = Card(halves)
    found = card.backend.infer(batch(2))
    assert {array.dtype for array in found} == {np.dtype(np.float16)}
    session = session_of(halves)
    inputs = {"data": batch(2).inputs_N3HW.astype(np.float16)}
    assert_same(found, NetworkOutput(*session.run(["heatmaps", "pafs"], inputs)))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_a_model_of_a_fixed_batch_answers_any_number(content: bytes, count: int) -> None:
    model = onnx.load_model_from_string(content)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    card = Card(model.SerializeToString())
    card.backend.prepare(batch(8))
    card.backend.submit(batch(count))
    card.backend.submit(batch(1, seed=1))
    for wanted in (batch(count), batch(1, seed=1)):
        found = card.backend.collect().maps
        for one, other in zip(found, expected(content, wanted), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert set(card.program.executed) == {(2, 3, 32, 48)}
    assert card.library.races == []


class TestFailing:
    @pytest.mark.parametrize("call", ["cuEventSynchronize", "cuMemcpyHtoDAsync_v2"])
    def test_a_failure_of_the_device_is_named_and_no_batch_stays_in_flight(
        self, card: Card, content: bytes, call: str
    ) -> None:
        card.backend.submit(batch(1))
        card.library.failing[call] = fakes.ILLEGAL_ADDRESS
        # `infer` submits a batch, and collects the earlier one.
        with pytest.raises(
            ExecutionError, match=f"ONNX Runtime cannot run the model: {call}: CUDA_ERROR_ILLEGAL"
        ):
            card.backend.infer(batch(2))
        for seed in range(3):
            assert_same(
                card.backend.infer(batch(2, seed=seed)), expected(content, batch(2, seed=seed))
            )

    def test_a_batch_that_the_model_refuses_names_its_images(self, card: Card) -> None:
        with pytest.raises(ExecutionError, match="cannot run the model") as caught:
            card.backend.infer(batch(2, 4, 4))
        assert caught.value.image_ids == (0, 1)

    def test_a_batch_that_exceeds_the_memory_is_an_error(self, content: bytes) -> None:
        card = Card(content, FakeLibcuda(memory_bytes=200_000))
        with pytest.raises(ExecutionError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            card.backend.prepare(batch(32))
        card.backend.prepare(batch(2))

    def test_a_missing_device_is_named(self) -> None:
        with pytest.raises(CudaError, match="cuDeviceGet: CUDA_ERROR_NO_DEVICE"):
            CudaDriver(1, FakeLibcuda())
        with pytest.raises(SetupError, match="there is no CUDA device 1000000"):
            open_driver(10**6)


class TestClosing:
    def test_frees_everything_and_may_be_repeated(self, card: Card) -> None:
        card.backend.prepare(batch(4))
        card.backend.submit(batch(4))
        card.backend.close()
        card.backend.close()
        library = card.library
        assert not any((library.memory, library.pinned, library.streams, library.events))
        assert library.contexts == 0
        with pytest.raises(SetupError, match="closed"):
            card.backend.submit(batch(1))

    def test_a_model_that_cannot_be_opened_leaves_no_resources_behind(self) -> None:
        library = FakeLibcuda()

        def make(_driver: CudaDriver, _stream: int) -> SessionProgram:
            raise SetupError("it has no outputs")

        with pytest.raises(SetupError, match="no outputs"):
            CudaBackend("ONNX Runtime", CudaDriver(0, library), make)
        assert not library.streams
        assert library.contexts == 0
