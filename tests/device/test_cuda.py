"""Backends on a real NVIDIA card; skipped on machines without one."""

from time import perf_counter_ns

import numpy as np
import pytest
import torch

from distributed_pose import SetupError
from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    DeviceTimes,
    InputBatch,
    NetworkOutput,
    check_maps,
)
from distributed_pose.backends.registry import open_backend
from distributed_pose.backends.shared_libraries import probe_provider
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.devices.nvidia import cuda_device_facts, cuda_device_name
from distributed_pose.devices.nvidia_libraries import loaded_tensorrt_version
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.model.engines import unpack_engines
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.model.half import to_half
from distributed_pose.model.onnx_graph import is_engine, parse
from distributed_pose.model.tensorrt import build_engines
from distributed_pose.model.torch_program import export_program
from distributed_pose.records.images import Geometry
from tests.checkpoints import exported, network_in

HEIGHT, WIDTH = 368, 640
BATCH_SIZE = 4

# Largest difference of maps, whose values are about one: float32 sums in another order, and half
# precision with 11 bits over about 60 layers.
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
    if can_load("onnxruntime:tensorrt"):
        for precision in TOLERANCES:
            made[f"onnxruntime:tensorrt {precision}"] = engine(
                made[f"onnxruntime:cuda {precision}"], precision
            )
    return made


def engine(
    content: bytes,
    precision: str,
    batch_sizes: tuple[int, ...] = (BATCH_SIZE,),
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> bytes:
    height, width = size
    return build_engines(
        content, batch_sizes=batch_sizes, height=height, width=width, precision=precision
    )


def can_load(name: str) -> bool:
    return not probe_provider(name.partition(":")[2])


def opened(models: dict[str, bytes], name: str, precision: str) -> Backend:
    if name in PROVIDERS and not can_load(name):
        lacks = probe_provider(name.partition(":")[2])
        pytest.skip(f"{name} lacks {', '.join(lack.what for lack in lacks)}")
    if name not in PROVIDERS and not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} finds no CUDA device")
    options = BackendOptions(precision=precision, threads=1, batch_size=BATCH_SIZE)
    return open_backend(name, models[f"{name} {precision}"], options)


def batch(count: int, height: int = HEIGHT, width: int = WIDTH) -> InputBatch:
    inputs = np.random.default_rng(count).uniform(-0.5, 0.5, (count, 3, height, width))
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs.astype(np.float32))


def difference(found: NetworkOutput, wanted: NetworkOutput) -> float:
    # Half-precision values are compared as float32.
    pairs = zip(found, wanted, strict=True)
    return max(float(np.abs(np.float32(a) - np.float32(b)).max()) for a, b in pairs)


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (256, 456)])
@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_maps_equal_those_of_the_cpu_within_the_reported_precision(
    models: dict[str, bytes], name: str, precision: str, size: tuple[int, int]
) -> None:
    if name == "onnxruntime:tensorrt" and can_load(name):
        # An engine takes inputs of one size.
        content = models[f"onnxruntime:cuda {precision}"]
        models = {**models, f"{name} {precision}": engine(content, precision, size=size)}
    backend = opened(models, name, precision)
    reference = open_backend("onnxruntime:cpu", models["cpu"], BackendOptions(threads=4))
    assert backend.precision == precision
    for count in (BATCH_SIZE, 1, 3):
        asked = batch(count, *size)
        found = check_maps(backend.infer(asked), asked, coco_body())
        found_difference = difference(found, reference.infer(asked))
        assert found_difference < TOLERANCES[precision]
        # Half precision, or TF32 in place of float32, would differ more.
        assert (found_difference > TOLERANCES["f32"]) == (precision == "f16")


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_a_batch_gets_the_same_answer_at_its_first_and_at_later_runs(
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
def test_a_backend_reports_the_cards_name_and_can_be_closed_twice(
    models: dict[str, bytes], name: str, precision: str
) -> None:
    backend = opened(models, name, precision)
    assert backend.description == cuda_device_name(0)
    backend.close()
    backend.close()
    with pytest.raises(SetupError, match="closed"):
        backend.infer(batch(1))


@pytest.mark.parametrize("name", ["torch:cuda", "onnxruntime:cuda"])
def test_any_number_of_shapes_is_answered(models: dict[str, bytes], name: str) -> None:
    backend = opened(models, name, "f32")
    reference = open_backend("onnxruntime:cpu", models["cpu"], BackendOptions(threads=4))
    backend.prepare(batch(1, 64, 64))
    for number in range(10):
        given = batch(1, 64, 64 + 8 * number)
        assert difference(backend.infer(given), reference.infer(given)) < TOLERANCES["f32"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_bytes_are_normalised_on_the_card(models: dict[str, bytes], name: str) -> None:
    content = to_half(models["bytes"])
    if not can_load(name):
        pytest.skip(f"{name} lacks {probe_provider(name.partition(':')[2])}")
    if name == "onnxruntime:tensorrt":
        content = engine(content, "f16")
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, HEIGHT, WIDTH)).astype(np.uint8)
    given = InputBatch((0, 1), batch(2).geometries, noise)
    options = BackendOptions(threads=4, batch_size=BATCH_SIZE)
    found = open_backend(name, content, options).infer(given)
    wanted = open_backend("onnxruntime:cpu", models["bytes"], options).infer(given)
    assert difference(found, wanted) < TOLERANCES["f16"]


def test_a_missing_card_is_a_setup_error(models: dict[str, bytes]) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} finds no CUDA device")
    options = BackendOptions(index=torch.cuda.device_count())
    with pytest.raises(SetupError, match="there is no CUDA device"):
        open_backend("torch:cuda", models["torch:cuda f16"], options)


def steady(backend: Backend, count: int, batches: int) -> tuple[float, list[DeviceTimes]]:
    """Returns the seconds of batches with all slots in use, and the times of each."""
    given, times, in_flight = batch(count), [], 0
    start = perf_counter_ns()
    for _ in range(batches):
        if in_flight == backend.slots:
            times.append(backend.collect().times)
            in_flight -= 1
        backend.submit(given)
        in_flight += 1
    times += [backend.collect().times for _ in range(in_flight)]
    return (perf_counter_ns() - start) / 1e9, times


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_execution_is_timed_on_the_card_and_overlaps_with_copies(
    models: dict[str, bytes], name: str, precision: str
) -> None:
    backend = opened(models, name, precision)
    backend.prepare(batch(BATCH_SIZE))
    seconds, times = steady(backend, BATCH_SIZE, 100)
    compute_s = sum(time.compute_ns for time in times) / 1e9
    copies_s = sum(time.copy_in_ns + time.copy_out_ns for time in times) / 1e9
    print(f"{name} {precision}: {seconds=:.3f} {compute_s=:.3f} {copies_s=:.3f}")  # noqa: T201
    assert min(time.compute_ns for time in times) > 0
    assert min(min(time.copy_in_ns, time.copy_out_ns) for time in times) > 0
    # The time is the longer of the two and not their sum.
    assert compute_s <= seconds * 1.02
    assert seconds < 0.8 * (compute_s + copies_s) or seconds < 1.1 * max(compute_s, copies_s)


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_starting_a_batch_does_not_wait_for_its_execution(
    models: dict[str, bytes], name: str, precision: str
) -> None:
    backend = opened(models, name, precision)
    backend.prepare(batch(BATCH_SIZE))
    backend.infer(batch(BATCH_SIZE))
    given = batch(BATCH_SIZE)
    shares = []
    for _ in range(20):
        start = perf_counter_ns()
        backend.submit(given)
        submitted_ns = perf_counter_ns() - start
        times = backend.collect().times
        # The remaining time beside the packing of the inputs.
        shares.append((submitted_ns - times.copy_in_ns) / times.compute_ns)
    assert np.median(shares) < 0.8


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_nothing_is_tuned_after_a_size_is_prepared(
    models: dict[str, bytes], name: str, precision: str
) -> None:
    backend = opened(models, name, precision)
    backend.prepare(batch(BATCH_SIZE))
    _, times = steady(backend, BATCH_SIZE, 20)
    usual_ns = float(np.median([time.compute_ns for time in times]))
    for count in (BATCH_SIZE, 1, 3, 2):
        backend.submit(batch(count))
        assert backend.collect().times.compute_ns < 3 * usual_ns


def test_sweeps_free_the_memory_of_earlier_sizes(models: dict[str, bytes]) -> None:
    backend = opened(models, "torch:cuda", "f16")
    backend.prepare(batch(1))
    before = torch.cuda.memory_reserved()
    for count in (2, 8, 4, 1):
        backend.prepare(batch(count))
    assert torch.cuda.memory_reserved() < before * 1.5


def test_pytorch_returns_half_precision_if_it_computes_in_it(models: dict[str, bytes]) -> None:
    found = opened(models, "torch:cuda", "f16").infer(batch(1))
    assert {array.dtype for array in found} == {np.dtype(np.float16)}


def test_each_size_of_a_sweep_has_an_engine_in_the_artifact(models: dict[str, bytes]) -> None:
    if not can_load("onnxruntime:tensorrt"):
        pytest.skip("TensorRT cannot be loaded")
    content = engine(models["onnxruntime:cuda f16"], "f16", (1, 4))
    engines = unpack_engines(content, 4)
    assert list(engines) == [1, 4]
    assert all(is_engine(parse(one)) for one in engines.values())
    options = BackendOptions(precision="f16", batch_size=4)
    backend = open_backend("onnxruntime:tensorrt", content, options)
    reference = open_backend("onnxruntime:cpu", models["cpu"], BackendOptions(threads=4))
    for count in (1, 4, 3):
        backend.prepare(batch(count))
        wanted = reference.infer(batch(count))
        assert difference(backend.infer(batch(count)), wanted) < TOLERANCES["f16"]


def test_the_key_of_an_engine_depends_on_card_driver_and_tensorrt() -> None:
    assert "compute capability" in cuda_device_facts(0)
    assert "cuda-driver" in cuda_device_facts(0)
    if can_load("onnxruntime:tensorrt"):
        assert loaded_tensorrt_version().startswith("10.")


def test_two_backends_on_one_card_return_the_answers_of_one(models: dict[str, bytes]) -> None:
    first, second = (opened(models, "torch:cuda", "f16") for _ in range(2))
    for backend in (first, second):
        backend.prepare(batch(BATCH_SIZE))
        backend.submit(batch(BATCH_SIZE))
    maps = [backend.collect().maps for backend in (second, first)]
    assert difference(*maps) < TOLERANCES["f16"]
