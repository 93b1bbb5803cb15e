"""The pyACL backend runs against a fake of pyACL that checks how it is called."""

import importlib
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from distributed_pose import ExecutionError, PoseEvalError, SetupError
from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    Inference,
    InputBatch,
    NetworkOutput,
    check_maps,
)
from distributed_pose.backends.registry import open_backend
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.records.images import Geometry
from tests.fakes.ascend import FOLDER, HEIGHT, PLAIN, TWO_STAGES, WIDTH, network, om, stand_ins

# Batch sizes that an `.om` is compiled for, and whether it takes bytes.
KINDS = {
    "static 1": ((1,), False),
    "static 4": ((4,), False),
    "dynamic": ((1, 2, 4), False),
    "aipp": ((2,), True),
    "dynamic aipp": ((1, 3), True),
}
MOST = 9

# Half precision has 11 bits of mantissa, and the network's values are below 4.
TOLERANCE = 2e-3


@pytest.fixture(autouse=True)
def fake() -> Iterator[ModuleType]:
    """The state of the fake; every test must release all resources and violate no rule."""
    with stand_ins():
        state = importlib.import_module("acl.fake")
        yield state
        assert state.violations == []


def opened(content: bytes, precision: str = "auto", most: int = MOST, index: int = 0) -> Backend:
    return open_backend("ascend", content, BackendOptions(precision, 1, most, index))


def compiled(kind: str, outputs: tuple[str, ...] = tuple(PLAIN)) -> bytes:
    batches, aipp = KINDS[kind]
    return om(network(outputs), batches, aipp=aipp)


def batch(count: int, kind: str = "static 1", seed: int = 0, width: int = WIDTH) -> InputBatch:
    generator = np.random.default_rng([count, seed])
    pixels = generator.integers(0, 256, (count, 3, HEIGHT, width), dtype=np.uint8)
    inputs = pixels if KINDS[kind][1] else ((pixels - np.float32(128)) / 256).astype(np.float32)
    geometry = Geometry(HEIGHT, width, 0, 0, 0, 0)
    return InputBatch(tuple(range(count)), (geometry,) * count, inputs)


def expected(images: InputBatch, outputs: tuple[str, str] = ("heatmaps", "pafs")) -> NetworkOutput:
    """Returns the maps of ONNX Runtime for the same network and images."""
    inputs = images.inputs_N3HW
    if inputs.dtype == np.uint8:
        inputs = (inputs - np.float32(128)) / np.float32(256)
    session = onnxruntime.InferenceSession(network(outputs))
    return NetworkOutput(*session.run(list(outputs), {"data": inputs.astype(np.float32)}))


def assert_equal(found: NetworkOutput, wanted: NetworkOutput) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKindOfModel:
    @pytest.mark.parametrize("eager", [False, True])
    def test_answers_any_batch_up_to_the_largest_as_onnx_runtime_does(
        self, kind: str, fake: Any, *, eager: bool
    ) -> None:
        fake.eager = eager
        backend = opened(compiled(kind))
        for count in (*range(1, MOST + 1), 1):
            images = batch(count, kind)
            maps = check_maps(backend.infer(images), images, coco_body())
            assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in maps)
            assert_equal(maps, expected(images))
        backend.close()
        assert fake.leaks() == {}

    def test_does_not_change_earlier_answers(self, kind: str) -> None:
        backend = opened(compiled(kind))
        first = backend.infer(batch(MOST, kind))
        copies = NetworkOutput(*(array.copy() for array in first))
        backend.infer(batch(MOST, kind, seed=1))
        backend.close()
        for one, other in zip(first, copies, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_allocates_memory_once(self, kind: str, fake: Any) -> None:
        backend = opened(compiled(kind))
        before = len(fake.calls)
        for count in range(1, MOST + 1):
            backend.infer(batch(count, kind))
        assert {name for name in fake.calls[before:] if "malloc" in name or "create" in name} == (
            set()
        )

    @pytest.mark.parametrize("name", ["fail_at", "fail_from"])
    def test_a_failure_of_any_call_is_an_error_and_releases_all_resources(
        self, kind: str, name: str
    ) -> None:
        calls = cycle(kind, "fail_at", None)
        assert len(calls) > 50
        # Every call fails once for the kind that makes all calls; for the others, only the
        # first and the last call of each name.
        ends = {call: position for position, call in enumerate(calls)}
        known = {*ends.values(), *(calls.index(call) for call in ends)}
        for position in range(len(calls)) if kind == "dynamic aipp" else sorted(known):
            cycle(kind, name, position)
        importlib.import_module("acl.fake").new_process()


def cycle(kind: str, name: str, position: int | None) -> list[str]:
    """Returns the calls of opening, inferring and closing, of which one or all later ones fail."""
    fake = importlib.import_module("acl.fake")
    importlib.import_module("distributed_pose.backends.acl_calls").initialise.cache_clear()
    fake.new_process()
    setattr(fake, name, position)
    errors: list[Exception] = []
    backend = attempt(lambda: opened(compiled(kind)), errors)
    for _ in range(2):
        attempt(lambda: backend and backend.infer(batch(5, kind)), errors)
    attempt(lambda: backend and backend.close(), errors)
    left = {thing.kind for thing in fake.things.values() if not thing.refused}
    attempt(lambda: backend and backend.close(), errors)
    failed = fake.calls[position] if position is not None else "none"
    where = f"{failed}, call {position} of {len(fake.calls)}: {errors}"
    assert all(isinstance(error, PoseEvalError) for error in errors), where
    assert bool(errors) == (position is not None), where
    # Calls without a code return 0, no name or -1.
    messages = (str(fake.INJECTED), "it returned nothing", "not known: -1")
    assert all(any(text in str(error) for text in messages) for error in errors), where
    assert fake.violations == [], where
    if name == "fail_at":
        # Only resources whose release fails are left.
        assert left <= {"default context"}, where
        assert sum(fake.leaks().values()) <= 1, where
        gives_back = ("free", "destroy", "unload", "reset")
        assert fake.leaks() == {} or any(word in failed for word in gives_back), where
    return list(fake.calls)


def attempt(action: Callable[[], Any], errors: list[Exception]) -> Any:
    try:
        return action()
    except Exception as error:  # noqa: BLE001
        errors.append(error)
        return None


def test_a_failure_names_the_call_its_code_and_a_remedy(fake: Any) -> None:
    backend = opened(compiled("static 4"))
    fake.fail_at = len(fake.calls) + 2
    with pytest.raises(ExecutionError, match=r"acl\.rt\.memcpy_async failed with code") as e:
        backend.infer(batch(2))
    assert "507899: the driver failed" in e.value.message
    assert "a test wanted this call to fail" in e.value.message
    assert "npu-smi info" in e.value.hint
    assert e.value.image_ids == (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_works_again_after_a_batch_that_failed(kind: str, fake: Any) -> None:
    images, other = batch(5, kind), batch(5, kind, seed=1)
    backend = opened(compiled(kind))
    for error in each_failure(fake, lambda: backend.infer(other)):
        assert error.image_ids == other.image_ids
        assert_equal(backend.infer(images), expected(images))


def each_failure(fake: Any, action: Callable[[], Any]) -> Iterator[ExecutionError]:
    """Yields the error of an action whose first call fails, then its second, and so on."""
    # The number of calls depends on the earlier batches.
    for position in itertools.count():
        fake.fail_at = len(fake.calls) + position
        try:
            action()
        except ExecutionError as error:
            fake.fail_at = None
            yield error
        else:
            fake.fail_at = None
            assert position > 15
            return


class TestOverlap:
    @pytest.mark.parametrize("kind", ["static 4", "dynamic", "dynamic aipp"])
    @pytest.mark.parametrize("eager", [False, True])
    def test_batches_in_flight_are_answered_in_order(
        self, kind: str, fake: Any, *, eager: bool
    ) -> None:
        fake.eager = eager
        backend = opened(compiled(kind))
        sizes = [1, MOST, 3, 2, 4, MOST, 5]
        given = [batch(size, kind, seed) for seed, size in enumerate(sizes)]
        answers = run_overlapped(backend, given)
        for images, answer in zip(given, answers, strict=True):
            assert_equal(answer.maps, expected(images))
        backend.close()
        assert fake.leaks() == {}

    def test_a_device_executes_without_gaps_while_it_copies_in_both_directions(
        self, fake: Any
    ) -> None:
        fake.execute_ms, fake.copy_ms = 4.5, {"in": 1.0, "out": 0.5}
        backend = opened(compiled("dynamic"))
        answers = run_overlapped(backend, [batch(4, seed=seed) for seed in range(40)])
        # No execution overlaps with the first copy in and the last copy out.
        assert fake.host_ms == pytest.approx(1.0 + 40 * 4.5 + 2 * 0.5)
        times = answers[-1].times
        assert times.compute_ns == pytest.approx(4.5e6, rel=1e-3)
        # They include packing on the host.
        assert 1.0e6 <= times.copy_in_ns < 100e6
        assert 1.0e6 <= times.copy_out_ns < 100e6

    def test_times_of_a_batch_are_those_of_all_its_parts(self, fake: Any) -> None:
        fake.execute_ms = 2.0
        backend = opened(compiled("static 4"))
        backend.submit(batch(MOST))
        assert backend.collect().times.compute_ns == pytest.approx(6e6, rel=1e-3)

    def test_no_batch_is_in_flight_after_an_error(self, fake: Any) -> None:
        backend = opened(compiled("dynamic"))
        two, others = [batch(4, seed=1), batch(3, seed=2)], [batch(2, seed=3), batch(MOST, seed=4)]
        for error in each_failure(fake, lambda: run_overlapped(backend, two)):
            assert error.image_ids in {images.image_ids for images in two}
            assert all(not stream.pending for stream in fake.streams())
            for images, answer in zip(others, run_overlapped(backend, others), strict=True):
                assert_equal(answer.maps, expected(images))

    def test_no_batch_is_in_flight_after_one_that_the_model_refuses(self, fake: Any) -> None:
        backend = opened(compiled("static 4"))
        backend.submit(batch(4))
        with pytest.raises(SetupError, match="profile=modelzoo or uint8"):
            backend.submit(batch(2, width=56))
        assert all(not stream.pending for stream in fake.streams())
        assert_equal(backend.infer(batch(3)), expected(batch(3)))

    def test_a_backend_can_be_closed_while_batches_are_in_flight(self, fake: Any) -> None:
        backend = opened(compiled("static 4"))
        for seed in range(backend.slots):
            backend.submit(batch(4, seed=seed))
        backend.close()
        assert fake.leaks() == {}


def run_overlapped(backend: Backend, batches: list[InputBatch]) -> list[Inference]:
    """Returns the answers of batches that run with all slots in flight."""
    answers = []
    for position, images in enumerate(batches):
        if position >= backend.slots:
            answers.append(backend.collect())
        backend.submit(images)
    answers += [backend.collect() for _ in range(min(backend.slots, len(batches)))]
    return answers


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [2]), (3, [4]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1])]
)
def test_a_dynamic_batch_runs_in_the_smallest_sizes_that_fit(
    count: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mdl = importlib.import_module("acl.mdl")
    seen, original = [], mdl.set_dynamic_batch_size

    def noting(*given: int) -> Any:
        seen.append(given[3])
        return original(*given)

    monkeypatch.setattr(mdl, "set_dynamic_batch_size", noting)
    opened(compiled("dynamic")).infer(batch(count))
    assert seen == sizes


class TestOutputs:
    @pytest.mark.parametrize("order", [("heatmaps", "pafs"), ("pafs", "heatmaps")])
    def test_are_distinguished_in_any_order(self, order: tuple[str, str]) -> None:
        assert_equal(opened(compiled("static 4", order)).infer(batch(3)), expected(batch(3)))

    @pytest.mark.parametrize("turned", [False, True])
    def test_of_the_last_stage_are_used(self, *, turned: bool) -> None:
        names = tuple(reversed(TWO_STAGES)) if turned else tuple(TWO_STAGES)
        wanted = expected(batch(3), ("stage_1_output_1_heatmaps", "stage_1_output_0_pafs"))
        assert_equal(opened(compiled("dynamic", names)).infer(batch(3)), wanted)

    def test_in_half_precision_stay_in_half_precision(self) -> None:
        content = om(network(), (4,), output_dtype="float16")
        maps = check_maps(opened(content).infer(batch(3)), batch(3), coco_body())
        assert all(array.dtype == np.float16 for array in maps)
        assert_equal(maps, expected(batch(3)))

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_that_are_out_of_the_range_of_half_precision_are_detected(self, dtype: str) -> None:
        content = om(network(scale=1e6), (4,), output_dtype=dtype)
        with pytest.raises(ExecutionError, match="not finite"):
            check_maps(opened(content).infer(batch(3)), batch(3), coco_body())

    def test_that_are_missing_are_named(self, fake: Any) -> None:
        with pytest.raises(SetupError, match=r"no output of 38 channels.*heatmaps \[1, 19, 4, 6\]"):
            opened(compiled("static 1", ("heatmaps",)))
        assert fake.leaks() == {}


class TestRefusals:
    @pytest.mark.parametrize("what", ["input", "output"])
    def test_a_model_whose_memory_is_smaller_than_its_shape(
        self, what: str, monkeypatch: pytest.MonkeyPatch, fake: Any
    ) -> None:
        mdl = importlib.import_module("acl.mdl")
        monkeypatch.setattr(mdl, f"get_{what}_size_by_index", lambda *_: 8)
        with pytest.raises(SetupError, match="has 8 bytes instead of"):
            opened(compiled("static 1"))
        assert fake.leaks() == {}

    def test_a_model_for_another_chip(self, fake: Any) -> None:
        fake.soc = "Ascend310"
        with pytest.raises(SetupError, match="for Ascend310P3 and this is Ascend310") as caught:
            opened(compiled("static 1"))
        assert "compile it for this chip" in caught.value.hint
        assert fake.leaks() == {}

    @pytest.mark.parametrize("content", [b"", b"no model", network()])
    def test_content_that_is_not_a_model(self, content: bytes, fake: Any) -> None:
        with pytest.raises(SetupError, match="compile it"):
            opened(content)
        assert fake.leaks() == {}

    def test_a_missing_device(self, fake: Any) -> None:
        with pytest.raises(SetupError, match="there is no such device"):
            opened(compiled("static 1"), index=2)
        assert fake.leaks() == {}

    def test_another_size_of_images(self) -> None:
        backend = opened(compiled("static 4"))
        with pytest.raises(SetupError, match=r"data \[\?, 3, 32, 48\].*\[2, 3, 32, 56\]") as e:
            backend.infer(batch(2, width=56))
        assert "profile=modelzoo or uint8" in e.value.hint

    def test_another_type_of_images(self) -> None:
        with pytest.raises(SetupError, match=r"data is uint8, the profile's float32 .*the profile"):
            opened(compiled("aipp")).infer(batch(2))
        with pytest.raises(SetupError, match=r"data is float32, the profile's uint8 .*the profile"):
            opened(compiled("static 4")).infer(batch(2, "aipp"))

    def test_more_images_than_it_was_opened_for(self) -> None:
        with pytest.raises(SetupError, match="3 images and the backend is for 2"):
            opened(compiled("static 4"), most=2).infer(batch(3))

    def test_single_precision_where_the_chip_has_none(self, fake: Any) -> None:
        with pytest.raises(SetupError, match="convolutions of Ascend310P3 are f16 only"):
            opened(compiled("static 1"), "f32")
        assert fake.leaks() == {}


FULL = "--op_precision_mode=no_hf32.ini"


@pytest.mark.parametrize(
    ("soc", "options", "asked", "precision"),
    [
        ("Ascend310P3", "", "auto", "f16"),
        ("Ascend310P3", "", "f16", "f16"),
        ("Ascend910B4", "--precision_mode=must_keep_origin_dtype", "auto", "hf32"),
        ("Ascend910B4", f"--precision_mode=must_keep_origin_dtype {FULL}", "f32", "f32"),
        ("Ascend310B1", "--precision_mode=must_keep_origin_dtype", "f32", "f32"),
        ("Ascend310P3", None, "auto", "unknown"),
        ("Ascend310P3", None, "f16", "unknown"),
    ],
)
def test_reports_its_chip_and_the_precision_of_the_file(
    soc: str, options: str | None, asked: str, precision: str, fake: Any
) -> None:
    fake.soc = soc
    fields: dict[str, Any] = {"command": ""} if options is None else {"options": options}
    backend = opened(om(network(), soc=soc, **fields), asked)
    assert (backend.description, backend.precision) == (soc, precision)


@pytest.mark.parametrize(
    ("options", "asked", "found"),
    [
        ("", "f32", "f16"),
        ("--precision_mode=must_keep_origin_dtype", "f32", "hf32"),
        ("--precision_mode=must_keep_origin_dtype", "f16", "hf32"),
    ],
)
def test_a_file_of_another_precision_than_requested_is_refused(
    options: str, asked: str, found: str, fake: Any
) -> None:
    fake.soc = "Ascend910B4"
    with pytest.raises(SetupError, match=f"the compiled model has precision {found}, not {asked}"):
        opened(om(network(), soc="Ascend910B4", options=options), asked)
    assert fake.leaks() == {}


def test_the_filling_of_a_batch_does_not_depend_on_earlier_batches() -> None:
    backend: Any = opened(compiled("static 4"))
    fresh = backend._slots[0].host_input
    for _ in backend._slots:
        backend.infer(batch(4))
    backend.infer(batch(1))
    assert np.any(fresh[0])
    assert not np.any(fresh[1:])


def test_can_be_closed_twice_and_refuses_batches_afterwards(fake: Any) -> None:
    backend = opened(compiled("static 1"))
    backend.close()
    backend.close()
    with pytest.raises(SetupError, match="the backend is closed"):
        backend.infer(batch(1))
    assert fake.leaks() == {}


def test_two_can_be_open_at_once_and_others_later(fake: Any) -> None:
    images = batch(3)
    first, second = opened(compiled("static 4")), opened(compiled("dynamic"), index=1)
    for backend in (first, second, first, second):
        assert_equal(backend.infer(images), expected(images))
    first.close()
    assert_equal(second.infer(images), expected(images))
    second.close()
    third = opened(compiled("aipp"))
    assert_equal(third.infer(batch(3, "aipp")), expected(batch(3, "aipp")))
    third.close()
    assert fake.leaks() == {}
    assert fake.calls.count("init") == 1


def test_pyacl_that_another_library_has_initialised_is_used() -> None:
    acl = importlib.import_module("acl")
    assert acl.init() == 0
    opened(compiled("static 1")).close()
    assert acl.finalize() == 0


def test_each_of_two_threads_can_have_a_backend() -> None:
    answers: dict[int, NetworkOutput] = {}

    def work(index: int) -> None:
        backend = opened(compiled("static 4"), index=index)
        answers[index] = backend.infer(batch(5, seed=index))
        backend.close()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert_equal(answers[index], expected(batch(5, seed=index)))


def test_pyacl_is_finalised_once_at_the_end_of_the_process() -> None:
    code = (
        "import atexit, acl.fake as fake\n"
        "atexit.register(lambda: print(fake.finalised, fake.violations, fake.calls[-1]))\n"
        "from tests.unit.backends.test_ascend import batch, compiled, opened\n"
        "for kind in ('static 4', 'dynamic'):\n"
        "    backend = opened(compiled(kind)); backend.infer(batch(5)); backend.close()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{FOLDER}:{FOLDER.parents[1]}"},
        check=True,
    )
    assert answer.stdout.split() == ["True", "[]", "finalize"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(507015, "an operator failed"), (207999, "lacks a resource"), (-3, "unknown kind")],
)
def test_codes_are_explained_individually_or_by_their_class(code: int, words: str) -> None:
    calls = importlib.import_module("distributed_pose.backends.acl_calls")
    assert words in calls.explain(code)[0]


def test_the_fake_checks_its_callers() -> None:
    """The fake refuses calls that the real library accepts silently or crashes on."""
    acl = importlib.import_module("acl")
    fake = acl.fake
    assert acl.rt.malloc(64, 0) == (0, 100001)
    acl.init()
    assert acl.rt.malloc(64, 0) == (0, 107002)
    acl.rt.set_device(0)
    (device, _), (host, _), (stream, _) = (
        acl.rt.malloc(64, 0),
        acl.rt.malloc_host(64),
        acl.rt.create_stream(),
    )
    answered: list[int] = []
    thread = threading.Thread(target=lambda: answered.append(acl.rt.free(device)))
    thread.start()
    thread.join()
    assert answered == [107002]
    assert acl.rt.memcpy_async(device, 128, host, 128, 1, stream) == 107000
    assert acl.rt.memcpy_async(device, 64, host, 64, 2, stream) == 107000
    assert acl.rt.memcpy_async(host, 64, device, 64, 2, stream) == 0
    assert acl.rt.free(device) == 0
    assert acl.rt.synchronize_stream(stream) == 107000
    assert acl.rt.free(device) == 107017
    assert fake.leaks() == {"host memory": 1, "stream": 1, "device": 1}
    acl.finalize()
    assert len(fake.violations) == 9
    fake.violations.clear()
