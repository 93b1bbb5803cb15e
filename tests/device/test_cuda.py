"""What only a card can show; skipped where there is none."""

import numpy as np
import onnxruntime
import pytest
import torch

from distributed_pose import SetupError
from distributed_pose.backends.base import Backend, BackendOptions, InputBatch, Maps, check_maps
from distributed_pose.backends.registry import open_backend
from distributed_pose.backends.torch_cuda import MAX_GRAPHS
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.model.half import to_half
from distributed_pose.model.tensorrt import build_engine
from distributed_pose.model.torch_program import export_program
from distributed_pose.nvidia import cuda_device_name
from distributed_pose.records import Geometry
from tests.checkpoints import exported, network_in

HEIGHT, WIDTH = 368, 640
BATCH_SIZE = 4

# Largest difference of maps of order one: float32 sums in another order, and half precision's 11
# bits over about 60 layers.
TOLERANCES = {"f32": 1e-4, "f16": 0.02}

PROVIDERS = {
    "onnxruntime:cuda": "CUDAExecutionProvider",
    "onnxruntime:tensorrt": "TensorrtExecutionProvider",
}
BACKENDS = ("torch:cuda", *PROVIDERS)
EVERY = [(name, precision) for name in BACKENDS for precision in TOLERANCES]


@pytest.fixture(scope="module", autouse=True)
def _card() -> None:
    if cuda_device_name(0) == cuda_device_name(10**6):
        pytest.skip("there is no NVIDIA card")


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """The demo network in every form, by backend and precision."""
    network = network_in(WEIGHTS)
    exact = exported(WEIGHTS)
    program = export_program(network, on_bytes=False)
    made = {f"torch:cuda {precision}": program for precision in TOLERANCES}
    made |= {"onnxruntime:cuda f32": exact, "onnxruntime:cuda f16": to_half(exact)}
    made |= {"cpu": exact, "bytes": fold_normalisation(exact)}
    if PROVIDERS["onnxruntime:tensorrt"] in onnxruntime.get_available_providers():
        for precision in TOLERANCES:
            made[f"onnxruntime:tensorrt {precision}"] = engine(
                made[f"onnxruntime:cuda {precision}"], precision
            )
    return made


def engine(content: bytes, precision: str) -> bytes:
    return build_engine(
        content, batch_sizes=(BATCH_SIZE,), height=HEIGHT, width=WIDTH, precision=precision
    )


def opened(models: dict[str, bytes], name: str, precision: str) -> Backend:
    provider = PROVIDERS.get(name)
    if provider and provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {provider}")
    if not provider and not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} finds no CUDA device")
    options = BackendOptions(precision=precision, threads=1, batch_size=BATCH_SIZE)
    return open_backend(name, models[f"{name} {precision}"], options)


def batch(count: int, height: int = HEIGHT, width: int = WIDTH) -> InputBatch:
    inputs = np.random.default_rng(count).uniform(-0.5, 0.5, (count, 3, height, width))
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs.astype(np.float32))


def difference(found: Maps, wanted: Maps) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_maps_are_those_of_the_cpu_within_the_precision_that_is_told(
    models: dict[str, bytes], name: str, precision: str
) -> None:
    backend = opened(models, name, precision)
    reference = open_backend("onnxruntime:cpu", models["cpu"], BackendOptions(threads=4))
    assert backend.precision == precision
    for count in (BATCH_SIZE, 1, 3):
        found = check_maps(backend.infer(batch(count)), batch(count))
        found_difference = difference(found, reference.infer(batch(count)))
        assert found_difference < TOLERANCES[precision]
        # Half precision, or TF32 under the name of float32, would show.
        assert (found_difference > TOLERANCES["f32"]) == (precision == "f16")


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_a_batch_is_answered_alike_at_its_first_and_at_later_times(
    models: dict[str, bytes], name: str, precision: str
) -> None:
    backend = opened(models, name, precision)
    first = backend.infer(batch(BATCH_SIZE))
    copies = [array.copy() for array in first]
    backend.infer(batch(2))
    negated = InputBatch((0,) * BATCH_SIZE, batch(BATCH_SIZE).geometries, -batch(4).inputs_N3HW)
    assert difference(backend.infer(negated), first) > TOLERANCES["f16"]
    again = backend.infer(batch(BATCH_SIZE))
    assert difference(again, first) < TOLERANCES[precision]
    for array, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_a_card_is_told_by_its_name_and_freed_twice(
    models: dict[str, bytes], name: str, precision: str
) -> None:
    backend = opened(models, name, precision)
    assert backend.description == cuda_device_name(0)
    backend.close()
    backend.close()
    with pytest.raises(SetupError, match="closed"):
        backend.infer(batch(1))


@pytest.mark.parametrize("name", ["torch:cuda", "onnxruntime:cuda"])
def test_more_shapes_than_there_are_graphs_are_answered(
    models: dict[str, bytes], name: str
) -> None:
    backend = opened(models, name, "f32")
    reference = open_backend("onnxruntime:cpu", models["cpu"], BackendOptions(threads=4))
    for number in range(MAX_GRAPHS + 2):
        given = batch(1, 64, 64 + 8 * number)
        assert difference(backend.infer(given), reference.infer(given)) < TOLERANCES["f32"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_bytes_are_normalised_on_the_card(models: dict[str, bytes], name: str) -> None:
    content = to_half(models["bytes"])
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {PROVIDERS[name]}")
    if name == "onnxruntime:tensorrt":
        content = engine(content, "f16")
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, HEIGHT, WIDTH)).astype(np.uint8)
    given = InputBatch((0, 1), batch(2).geometries, noise)
    options = BackendOptions(threads=4, batch_size=BATCH_SIZE)
    found = open_backend(name, content, options).infer(given)
    wanted = open_backend("onnxruntime:cpu", models["bytes"], options).infer(given)
    assert difference(found, wanted) < TOLERANCES["f16"]


def test_a_card_that_is_not_there_is_a_setup_error(models: dict[str, bytes]) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} finds no CUDA device")
    options = BackendOptions(index=torch.cuda.device_count())
    with pytest.raises(SetupError, match="there is no CUDA device"):
        open_backend("torch:cuda", models["torch:cuda f16"], options)
