"""The ais_bench backend runs against a fake of ais_bench that checks how it is called."""

import gc
import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distributed_pose import ExecutionError, PoseEvalError, SetupError
from distributed_pose.backends.base import Backend, BackendOptions, NetworkOutput, check_maps
from distributed_pose.backends.registry import open_backend
from distributed_pose.keypoints.reading import coco_body
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
        self, kind: str, fake: Any
    ) -> None:
        backend = opened(compiled(kind))
        for count in (*range(1, MOST + 1), 1):
            images = batch(count, kind)
            maps = check_maps(backend.infer(images), images, coco_body())
            assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in maps)
            assert_equal(maps, expected(images))
        backend.close()
        assert fake.open_sessions == 0

    def test_does_not_change_earlier_answers(self, kind: str) -> None:
        backend = opened(compiled(kind))
        first = backend.infer(batch(MOST, kind))
        copies = NetworkOutput(*(array.copy() for array in first))
        backend.infer(batch(MOST, kind, seed=1))
        backend.close()
        for one, other in zip(first, copies, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_failure_of_any_call_is_an_error_and_releases_all_resources(self, kind: str) -> None:
        total = len(cycle(kind, None))
        assert total > 5
        for position in range(total):
            cycle(kind, position)


def cycle(kind: str, position: int | None) -> list[str]:
    """Returns the calls of opening, inferring and closing, of which one fails."""
    with stand_ins():
        fake: Any = importlib.import_module("ais_bench.infer.interface")
        fake.fail_at = position
        errors: list[Exception] = []
        backend = attempt(lambda: opened(compiled(kind)), errors)
        attempt(lambda: backend and backend.infer(batch(5, kind)), errors)
        for _ in range(2):
            attempt(lambda: backend and backend.close(), errors)
        failed = fake.calls[position] if position is not None else "none"
        where = f"{failed}, call {position}: {errors}"
        assert all(isinstance(error, PoseEvalError) for error in errors), where
        # A size that fails while sizes are tried out counts as one that the model does not have.
        assert errors or failed in {"none", "set_dynamic_batchsize"}, where
        assert fake.open_sessions == (failed == "free_resource"), where
        return list(fake.calls)


@pytest.mark.parametrize("turned", [False, True])
def test_the_last_stage_is_used_in_any_order_of_outputs(*, turned: bool) -> None:
    names = tuple(reversed(TWO_STAGES)) if turned else tuple(TWO_STAGES)
    wanted = expected(batch(3), ("stage_1_output_1_heatmaps", "stage_1_output_0_pafs"))
    assert_equal(opened(compiled("dynamic", names)).infer(batch(3)), wanted)


def test_outputs_in_half_precision_stay_in_half_precision() -> None:
    maps = opened(om(network(), (4,), output_dtype="float16")).infer(batch(3))
    assert all(array.dtype == np.float16 for array in maps)
    assert_equal(maps, expected(batch(3)))


def test_a_dynamic_batch_runs_in_the_smallest_sizes_that_fit(fake: Any) -> None:
    backend = opened(compiled("dynamic"))
    for count in (1, 2, 3, 9):
        backend.infer(batch(count))
    assert fake.batches == [1, 2, 4, 4, 4, 1]


@pytest.mark.parametrize("asked", ["auto", "f16"])
@pytest.mark.parametrize(
    ("command", "described", "precision"),
    [
        ("atc --soc_version=Ascend310P3", "Ascend310P3", "f16"),
        ("atc --soc_version Ascend310P3 --precision_mode_v2 fp16", "Ascend310P3", "f16"),
        ("", "Ascend NPU 1", "unknown"),
    ],
)
def test_reports_the_chip_and_precision_of_the_file(
    asked: str, command: str, described: str, precision: str
) -> None:
    backend = opened(om(network(), command=command), asked, index=1)
    assert (backend.description, backend.precision) == (described, precision)


def test_a_file_of_another_precision_than_requested_is_refused(fake: Any) -> None:
    with pytest.raises(SetupError, match="has precision f16, not f32"):
        opened(compiled("static 1"), "f32")
    assert fake.open_sessions == 0


@pytest.mark.parametrize("release", [2023, 2024])
class TestReleases:
    @pytest.fixture(autouse=True)
    def of(self, fake: Any, release: int) -> None:
        fake.release = release

    def test_each_release_runs_every_kind_of_model(self, fake: Any) -> None:
        for kind in KINDS:
            backend = opened(compiled(kind))
            images = batch(5, kind)
            assert_equal(backend.infer(images), expected(images))
            backend.close()
            del backend
        gc.collect()
        assert fake.open_sessions == 0

    def test_compute_time_is_that_which_the_release_reports(self, fake: Any) -> None:
        fake.execute_ms = 4.5
        backend = opened(compiled("dynamic"))
        for count, parts in ((4, 1), (9, 3), (4, 1)):
            backend.submit(batch(count))
            times = backend.collect().times
            assert times.compute_ns == pytest.approx(parts * 4.5e6, rel=1e-3)
            assert times.copy_in_ns > 0


def test_batch_sizes_are_read_from_the_file_or_tried_out(fake: Any) -> None:
    opened(compiled("dynamic")).infer(batch(3))
    assert fake.calls.count("set_dynamic_batchsize") == 1
    opened(om(network(), (1, 2, 4), command="")).infer(batch(3))
    assert fake.calls.count("set_dynamic_batchsize") == 1 + 4 + 1
    assert fake.batches == [4, 4]
    fake.release = 2023
    with pytest.raises(SetupError, match=r"neither the \.om nor this ais_bench reports the sizes"):
        opened(om(network(), (1, 2, 4), command=""))


def test_the_file_is_private_and_not_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "link"))
    mask = os.umask(0)
    try:
        opened(compiled("static 1")).close()
    finally:
        os.umask(mask)


def test_can_be_closed_twice_and_refuses_batches_afterwards(fake: Any) -> None:
    backend = opened(compiled("static 1"))
    backend.close()
    backend.close()
    assert fake.calls.count("free_resource") == 1
    with pytest.raises(SetupError, match="the backend is closed"):
        backend.infer(batch(1))


class TestRefusals:
    def test_a_model_that_the_device_cannot_load(self, fake: Any) -> None:
        fake.soc = "Ascend310"
        with pytest.raises(SetupError, match=r"ais_bench cannot load the model: .500002.*chip"):
            opened(compiled("static 1"))

    @pytest.mark.parametrize("content", [b"", b"no model"])
    def test_content_that_is_not_a_model(self, content: bytes) -> None:
        with pytest.raises(SetupError, match="ais_bench cannot load the model"):
            opened(content)

    def test_a_missing_device(self) -> None:
        with pytest.raises(SetupError, match="invalid device"):
            opened(compiled("static 1"), index=2)

    def test_outputs_that_are_missing_are_named(self, fake: Any) -> None:
        with pytest.raises(
            SetupError, match=r"^the model has no output of 38 channels.*\[1, 19, 4, 6"
        ):
            opened(compiled("static 1", ("heatmaps",)))
        assert fake.open_sessions == 0

    def test_images_of_another_size_or_type_and_too_many_images(self) -> None:
        backend = opened(compiled("static 4"), most=2)
        with pytest.raises(SetupError, match=r"data \[\?, 3, 32, 48\].*profile=modelzoo or uint8"):
            backend.infer(batch(2, width=56))
        with pytest.raises(SetupError, match="data is float32, the profile's uint8"):
            backend.infer(batch(2, "aipp"))
        with pytest.raises(SetupError, match="3 images and the backend is for 2"):
            backend.infer(batch(3))

    def test_a_batch_that_fails(self, fake: Any) -> None:
        backend = opened(compiled("static 4"))
        fake.fail_at = len(fake.calls)
        with pytest.raises(ExecutionError, match=r"ais_bench cannot run the batch: .507899") as e:
            backend.infer(batch(2))
        assert e.value.image_ids == (0, 1)
        assert_equal(backend.infer(batch(2)), expected(batch(2)))


def test_the_model_does_not_remain_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened(compiled("static 1"))
    assert not list(tmp_path.iterdir())
