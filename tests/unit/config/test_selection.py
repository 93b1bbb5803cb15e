"""The selection of a configuration is resolved once, and is the same on every node."""

import pickle
from dataclasses import FrozenInstanceError

import pytest

from distributed_pose import parse_config
from distributed_pose.config.selection import Selection, check_computes, select
from distributed_pose.errors import ConfigError


def selected(**values: object) -> Selection:
    return select(parse_config(values))


def test_the_settings_of_a_kind_take_precedence_over_those_of_the_run() -> None:
    found = selected(precision="f32", batch_size=2, npu={"precision": "f16", "batch_size": "auto"})
    npu, cpu = found.kinds["npu"], found.kinds["cpu"]
    assert (npu.precision, npu.batch_sizes) == ("f16", (1, 2, 4, 8, 16, 32))
    assert (cpu.precision, cpu.batch_sizes) == ("f32", (2,))


def test_a_backend_without_its_variant_means_those_of_the_kind_in_order_of_preference() -> None:
    kinds = selected(backend="onnxruntime").kinds
    assert kinds["cuda"].candidates == ("onnxruntime:tensorrt", "onnxruntime:cuda")
    assert kinds["cpu"].candidates == ("onnxruntime:cpu",)


@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, False), ({"precision": "int8"}, True), ({"npu": {"precision": "int8"}}, True)],
)
def test_int8_on_any_kind_of_device_needs_calibration(
    values: dict[str, object], *, expected: bool
) -> None:
    assert selected(**values).uses_int8 is expected


def test_a_recording_has_nothing_to_measure() -> None:
    check_computes(selected(backend="oracle"))
    with pytest.raises(ConfigError, match="nothing to measure"):
        check_computes(selected(backend="recorded"))


def test_another_process_receives_the_same_selection_and_nothing_can_change_it() -> None:
    found = selected(devices=["npu:*", "cpu:2"], npu={"soc": "310P3"}, simulated={"rate": 5.0})
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(FrozenInstanceError):
        found.soc = "310"  # type: ignore[misc]
