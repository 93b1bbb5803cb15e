"""The selection of a configuration is resolved once, and is the same on every node."""

import pickle
from dataclasses import FrozenInstanceError

import pytest

from distributed_pose import parse_config
from distributed_pose.config.selection import Selection, check_computes, check_one_scale, select
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


UPSTREAM = {"profile": "upstream", "scales": [0.5, 1]}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"profile": "modelzoo"}, "profile modelzoo has inputs of one size"),
        ({"profile": "uint8", "scales": [0.5]}, "profile uint8 has inputs of one size"),
        ({"backend": "recorded"}, "backend recorded has the maps"),
        ({"backend": "simulated:t4"}, "backend simulated has the maps or the rate"),
        ({"dump_maps": "maps"}, "a recording of dump_maps"),
        ({"gather": "maps"}, "only workers can average"),
    ],
)
def test_what_works_at_one_scale_only_is_refused_at_others(
    values: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"^scales: {reason}"):
        selected(**{**UPSTREAM, **values})


def test_workers_group_the_maps_of_several_scales() -> None:
    assert selected(**UPSTREAM).gather == "poses"
    assert selected(**{**UPSTREAM, "scales": 0.5}).gather == "auto"


@pytest.mark.parametrize(
    "scales",
    [[], [1, 1], [1, 1.0], [0.05], [4.1], ["1"], True, "all", [0.5 + n / 8 for n in range(9)]],
)
def test_scales_are_up_to_eight_different_factors(scales: object) -> None:
    with pytest.raises(ConfigError, match="scales: "):
        selected(profile="upstream", scales=scales)


def test_commands_that_measure_the_maps_of_one_scale_refuse_others() -> None:
    check_one_scale(selected(profile="upstream"), "bench host")
    with pytest.raises(ConfigError, match="bench host measures the maps of scale 1"):
        check_one_scale(selected(**UPSTREAM), "bench host")
