"""OpenVINO shares the images of a batch over streams, with the same maps to the last bit."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from distributed_pose import ExecutionError
from distributed_pose.backends.base import BackendOptions, NetworkOutput
from distributed_pose.backends.openvino import OpenVinoBackend
from distributed_pose.backends.openvino_streams import num_streams
from distributed_pose.demo.default import WEIGHTS
from tests.int8_models import batch_of, random_inputs, small_network
from tests.requirements import skip_without_bf16


def opened(
    content: bytes, threads: int, batch_size: int, precision: str = "f32"
) -> OpenVinoBackend:
    return OpenVinoBackend(content, BackendOptions(precision, threads, batch_size))


def answers_of_all_modes(content: bytes, precision: str, count: int) -> list[NetworkOutput]:
    """Returns the answers with 1, 2 and 4 streams of 4 threads, and with one thread."""
    inputs = batch_of(random_inputs(count))
    modes = [(4, 1), (4, 2), (4, 4), (1, 1)]
    return [opened(content, *mode, precision).infer(inputs) for mode in modes]


def assert_same_bits(answers: list[NetworkOutput]) -> None:
    for answer in answers[1:]:
        for one, other in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


@pytest.mark.parametrize("count", [1, 5])
def test_maps_do_not_depend_on_streams_or_threads(count: int) -> None:
    assert_same_bits(answers_of_all_modes(WEIGHTS.read_bytes(), "f32", count))


def test_maps_in_bf16_do_not_depend_on_streams_or_threads() -> None:
    skip_without_bf16()
    assert_same_bits(answers_of_all_modes(small_network(), "bf16", 3))


@pytest.mark.parametrize("batch", ["n", 2])
def test_maps_do_not_depend_on_the_other_images_of_the_batch(batch: int | str) -> None:
    content = small_network(batch=batch)
    inputs = random_inputs(7)
    backend = opened(content, 2, 8)
    together = backend.infer(batch_of(inputs))
    for start in range(0, 7, 2):
        alone = backend.infer(batch_of(inputs[start : start + 1]))
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], other[start])


@pytest.mark.parametrize(
    ("threads", "batch_size", "size", "streams"),
    [(2, 8, 1, 2), (2, 7, 1, 1), (6, 8, 1, 2), (64, 8, 1, 8), (1, 8, 1, 1), (2, 8, 8, 1)],
)
def test_streams_share_threads_and_requests_evenly(
    threads: int, batch_size: int, size: int, streams: int
) -> None:
    assert num_streams(threads, batch_size, size) == streams


def test_a_single_image_gets_all_threads_once_it_is_prepared() -> None:
    backend = opened(small_network(), 2, 8)
    single = batch_of(random_inputs(1))
    before = backend.infer(single)
    backend.prepare(single)
    assert_same_bits([before, backend.infer(single)])


def test_a_batch_that_fails_leaves_the_streams_usable() -> None:
    fails = onnx.load_model_from_string(small_network())
    image = np.zeros((1, 3, 64, 96), np.float32)
    fails.graph.initializer.append(numpy_helper.from_array(image, "image"))
    fails.graph.node[0].input[0] = "sum"
    fails.graph.node.insert(0, helper.make_node("Add", ["data", "image"], ["sum"]))
    backend = opened(fails.SerializeToString(), 2, 8)
    good = batch_of(random_inputs(4))
    expected = backend.infer(good)
    for count in (1, 4, 5):
        with pytest.raises(ExecutionError, match="OpenVINO cannot run the model"):
            backend.infer(batch_of(random_inputs(count, 40, 40)))
        assert_same_bits([expected, backend.infer(good)])
