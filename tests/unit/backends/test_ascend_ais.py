"""The ais_bench backend against a stand-in for it that polices how it is called."""

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from distributed_pose import ExecutionError, PoseEvalError, SetupError
from distributed_pose.backends.base import Backend, BackendOptions, Maps, check_maps
from distributed_pose.backends.registry import open_backend
from tests.fakes.ascend import TWO_STAGES, network, om, stand_ins
from tests.unit.backends.test_ascend import (
    KINDS,
    MOST,
    assert_equal,
    attempt,
    batch,
    compiled,
    expected,
)


@pytest.fixture(autouse=True)
def fake() -> Iterator[ModuleType]:
    with stand_ins():
        yield importlib.import_module("ais_bench.infer.interface")


def opened(content: bytes, precision: str = "auto", most: int = MOST, index: int = 0) -> Backend:
    return open_backend("ascend-ais", content, BackendOptions(precision, 1, most, index))


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKindOfModel:
    def test_answers_any_batch_up_to_the_largest_as_onnx_runtime_does(
        self, kind: str, fake: ModuleType
    ) -> None:
        backend = opened(compiled(kind))
        for count in (*range(1, MOST + 1), 1):
            images = batch(count, kind)
            maps = check_maps(backend.infer(images), images)
            assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in maps)
            assert_equal(maps, expected(images))
        backend.close()
        assert fake.open_sessions == 0

    def test_leaves_earlier_answers_as_they_were(self, kind: str) -> None:
        backend = opened(compiled(kind))
        first = backend.infer(batch(MOST, kind))
        copies = Maps(*(array.copy() for array in first))
        backend.infer(batch(MOST, kind, seed=1))
        backend.close()
        for one, other in zip(first, copies, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_failure_of_any_call_is_a_clean_error_and_leaves_nothing(self, kind: str) -> None:
        total = len(cycle(kind, None))
        assert total > 5
        for position in range(total):
            cycle(kind, position)


def cycle(kind: str, position: int | None) -> list[str]:
    """Returns the calls of opening, inferring and closing, of which one fails."""
    with stand_ins():
        fake = importlib.import_module("ais_bench.infer.interface")
        fake.fail_at = position
        errors: list[Exception] = []
        backend = attempt(lambda: opened(compiled(kind)), errors)
        attempt(lambda: backend and backend.infer(batch(5, kind)), errors)
        for _ in range(2):
            attempt(lambda: backend and backend.close(), errors)
        failed = fake.calls[position] if position is not None else "none"
        where = f"{failed}, call {position}: {errors}"
        assert all(isinstance(error, PoseEvalError) for error in errors), where
        # One that is refused when batch sizes are tried is taken for one that the model lacks.
        assert errors or failed in {"none", "set_dynamic_batchsize"}, where
        assert fake.open_sessions == (failed == "free_resource"), where
        return list(fake.calls)


@pytest.mark.parametrize("turned", [False, True])
def test_the_last_stage_is_taken_whatever_the_order(*, turned: bool) -> None:
    names = tuple(reversed(TWO_STAGES)) if turned else tuple(TWO_STAGES)
    wanted = expected(batch(3), ("stage_1_output_1_heatmaps", "stage_1_output_0_pafs"))
    assert_equal(opened(compiled("dynamic", names)).infer(batch(3)), wanted)


def test_outputs_of_half_precision_are_widened() -> None:
    maps = opened(om(network(), (4,), output_dtype="float16")).infer(batch(3))
    for one, other in zip(maps, expected(batch(3)), strict=True):
        np.testing.assert_array_equal(one, other.astype(np.float16).astype(np.float32))


def test_a_dynamic_batch_is_run_in_the_least_sizes_that_fit(fake: ModuleType) -> None:
    backend = opened(compiled("dynamic"))
    for count in (1, 2, 3, 9):
        backend.infer(batch(count))
    assert fake.batches == [1, 2, 4, 4, 4, 1]


@pytest.mark.parametrize(("asked", "told"), [("auto", "f16"), ("f16", "f16"), ("f32", "f32")])
def test_tells_its_device_and_the_precision_that_the_model_was_compiled_for(
    asked: str, told: str
) -> None:
    backend = opened(compiled("static 1"), asked, index=1)
    assert (backend.description, backend.precision) == ("Ascend NPU 1", told)


def test_can_be_closed_twice_and_not_be_used_after(fake: ModuleType) -> None:
    backend = opened(compiled("static 1"))
    backend.close()
    backend.close()
    assert fake.calls.count("free_resource") == 1
    with pytest.raises(SetupError, match="the backend is closed"):
        backend.infer(batch(1))


class TestRefusals:
    def test_a_model_that_the_device_does_not_load(self, fake: ModuleType) -> None:
        fake.soc = "Ascend310"
        with pytest.raises(SetupError, match=r"ais_bench cannot load the model: .500002.*chip"):
            opened(compiled("static 1"))

    @pytest.mark.parametrize("content", [b"", b"no model"])
    def test_what_is_no_model(self, content: bytes) -> None:
        with pytest.raises(SetupError, match="ais_bench cannot load the model"):
            opened(content)

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(SetupError, match="invalid device"):
            opened(compiled("static 1"), index=2)

    def test_outputs_that_are_missing_are_named(self, fake: ModuleType) -> None:
        with pytest.raises(
            SetupError, match=r"^the model has no output of 38 channels.*\[1, 19, 4, 6"
        ):
            opened(compiled("static 1", ("heatmaps",)))
        assert fake.open_sessions == 0

    def test_another_size_or_type_of_images_or_too_many(self) -> None:
        backend = opened(compiled("static 4"), most=2)
        with pytest.raises(SetupError, match=r"data \[\?, 3, 32, 48\].*profile=modelzoo or uint8"):
            backend.infer(batch(2, width=56))
        with pytest.raises(SetupError, match="data is float32, the profile's uint8"):
            backend.infer(batch(2, "aipp"))
        with pytest.raises(SetupError, match="3 images and the backend is for 2"):
            backend.infer(batch(3))

    def test_a_batch_that_fails(self, fake: ModuleType) -> None:
        backend = opened(compiled("static 4"))
        fake.fail_at = len(fake.calls)
        with pytest.raises(ExecutionError, match=r"ais_bench cannot run the batch: .507899") as e:
            backend.infer(batch(2))
        assert e.value.image_ids == (0, 1)
        assert_equal(backend.infer(batch(2)), expected(batch(2)))


def test_the_model_is_not_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened(compiled("static 1"))
    assert not list(tmp_path.iterdir())
