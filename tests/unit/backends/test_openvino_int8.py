"""OpenVINO runs int8 models, and refuses damaged ones and models that are not quantised."""

import io
import zipfile

import numpy as np
import onnx
import openvino
import pytest
from onnx import helper, numpy_helper

from distributed_pose import ExecutionError, SetupError
from distributed_pose.backends.base import BackendOptions, check_maps
from distributed_pose.backends.openvino import OpenVinoBackend
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.model.quantise import quantise
from tests.int8_models import batch_of, needs_int8, needs_nncf, random_inputs, small_network

EXACT = small_network()


@pytest.fixture(scope="module")
def int8() -> bytes:
    return quantise(EXACT, [random_inputs(4)])


def opened(content: bytes, precision: str = "auto") -> OpenVinoBackend:
    return OpenVinoBackend(content, BackendOptions(precision))


@needs_nncf
@needs_int8
class TestAnInt8Model:
    @pytest.mark.parametrize("asked", ["auto", "int8"])
    def test_is_reported_as_int8_although_most_layers_are_depthwise(
        self, int8: bytes, asked: str
    ) -> None:
        assert opened(int8, asked).precision == "int8"

    def test_is_not_another_precision(self, int8: bytes) -> None:
        with pytest.raises(SetupError, match=r"has precision int8, not f32 \(set precision=auto"):
            opened(int8, "f32")

    def test_answers_batches_of_any_size(self, int8: bytes) -> None:
        backend = opened(int8)
        together = batch_of(random_inputs(3))
        answers = check_maps(backend.infer(together), together, coco_body())
        for index in range(3):
            alone = backend.infer(batch_of(together.inputs_N3HW[index : index + 1]))
            for one, other in zip(alone, answers, strict=True):
                np.testing.assert_allclose(one[0], other[index], atol=1e-6)

    def test_answers_the_same_with_any_number_of_streams_and_threads(self, int8: bytes) -> None:
        inputs = batch_of(random_inputs(3))
        modes = [BackendOptions("int8", *mode) for mode in [(1, 1), (4, 1), (4, 2), (4, 4)]]
        first, *others = (OpenVinoBackend(int8, mode).infer(inputs) for mode in modes)
        for answer in others:
            for one, other in zip(answer, first, strict=True):
                np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))

    def test_returns_arrays_that_later_calls_do_not_change(self, int8: bytes) -> None:
        backend = opened(int8)
        first = backend.infer(batch_of(random_inputs(2)))
        copies = [array.copy() for array in first]
        backend.infer(batch_of(-random_inputs(2)))
        for array, copy in zip(first, copies, strict=True):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert array.flags.owndata
            np.testing.assert_array_equal(array, copy)

    def test_can_be_closed_twice_and_refuses_batches_afterwards(self, int8: bytes) -> None:
        backend = opened(int8)
        backend.close()
        backend.close()
        with pytest.raises(SetupError, match="the backend is closed"):
            backend.infer(batch_of(random_inputs(1)))

    @pytest.mark.parametrize("kept", [0.001, 0.3, 0.9])
    def test_that_is_truncated_cannot_be_loaded(self, int8: bytes, kept: float) -> None:
        with pytest.raises(SetupError, match=r"OpenVINO cannot load the model: .+"):
            opened(int8[: int(len(int8) * kept)])

    @pytest.mark.parametrize("position", np.linspace(0.02, 0.95, 8))
    def test_that_is_damaged_cannot_be_loaded(self, int8: bytes, position: float) -> None:
        start = int(len(int8) * position)
        damaged = int8[:start] + bytes(64) + int8[start + 64 :]
        with pytest.raises(SetupError, match=r"OpenVINO cannot load the model: .+"):
            opened(damaged)

    def test_without_its_weights_cannot_be_loaded(self, int8: bytes) -> None:
        content = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(int8)) as whole, zipfile.ZipFile(content, "w") as part:
            part.writestr("model.xml", whole.read("model.xml"))
        with pytest.raises(SetupError, match=r"cannot load the model: .*model\.bin"):
            opened(content.getvalue())


@needs_int8
def test_int8_of_an_unquantised_model_is_refused_with_the_command_that_makes_one() -> None:
    with pytest.raises(SetupError, match="compile MODEL --for openvino --precision int8"):
        opened(EXACT, "int8")


def test_the_precision_is_that_of_the_weights_and_not_of_the_layers() -> None:
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert opened(EXACT, "f32").precision == "f32"
    if "BF16" in capabilities:
        assert opened(EXACT, "bf16").precision == opened(EXACT).precision == "bf16"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_model_of_a_fixed_batch_answers_any_batch(count: int) -> None:
    batch = batch_of(random_inputs(count))
    fixed, free = (opened(small_network(batch=n), "f32").infer(batch) for n in (2, "n"))
    for one, other in zip(check_maps(fixed, batch, coco_body()), free, strict=True):
        assert one.flags.owndata
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_that_fails_on_a_batch_is_an_execution_error(threads: int) -> None:
    fails = onnx.load_model_from_string(EXACT)
    image = np.zeros((1, 3, 64, 96), np.float32)
    fails.graph.initializer.append(numpy_helper.from_array(image, "image"))
    fails.graph.node[0].input[0] = "sum"
    fails.graph.node.insert(0, helper.make_node("Add", ["data", "image"], ["sum"]))
    backend = OpenVinoBackend(fails.SerializeToString(), BackendOptions("f32", threads))
    assert backend.infer(batch_of(random_inputs(2))).pafs_NPHW.shape == (2, 38, 8, 12)
    with pytest.raises(ExecutionError, match=r"OpenVINO cannot run the model: .+") as caught:
        backend.infer(batch_of(random_inputs(2, 40, 40)))
    assert caught.value.image_ids == (0, 1)
