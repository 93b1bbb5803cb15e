"""The points of a sweep are all combinations, each with a name and the configuration of a run."""

from pathlib import Path

import pytest

from distributed_pose import ConfigError, parse_config
from distributed_pose.bench.sweep.plan import SweepPlan, suffixes
from distributed_pose.bench.sweep.points import sweep_points
from distributed_pose.bench.sweep.rounds import chosen_images, round_sizes
from distributed_pose.locations import Location


def test_all_combinations_are_points_with_the_configuration_of_a_run() -> None:
    values = {"input": ["184x320", "256x456"], "batch_size": ["1", "auto"]}
    points = sweep_points(parse_config({"precision": "f32"}), values)
    assert [point.name for point in points] == [
        "184x320-f32-1-auto-auto",
        "184x320-f32-auto-auto-auto",
        "256x456-f32-1-auto-auto",
        "256x456-f32-auto-auto-auto",
    ]
    assert [(one.config.input, one.config.batch_size) for one in points] == [
        ("184x320", 1),
        ("184x320", "auto"),
        ("256x456", 1),
        ("256x456", "auto"),
    ]
    assert {point.config.precision for point in points} == {"f32"}


def test_devices_of_one_point_are_joined() -> None:
    first, second = sweep_points(parse_config({}), {"devices": ["cuda:0+cpu:1", "npu:*"]})
    assert first.config.devices == ("cuda:0", "cpu:1")
    assert (first.devices, first.name) == ("cuda:0+cpu:1", "auto-auto-8-cuda_0+cpu_1-auto")
    assert second.name == "auto-auto-8-npu_all-auto"


def test_a_value_that_is_listed_twice_is_one_point() -> None:
    assert len(sweep_points(parse_config({}), {"precision": ["f32", "int8", "f32"]})) == 2


def test_a_swept_value_wins_over_the_settings_of_a_kind_of_device() -> None:
    config = parse_config({"cpu": {"precision": "int8", "batch_size": 4, "cpus": 1}})
    (point,) = sweep_points(config, {"precision": ["f32"]})
    assert point.config.on("cpu")[1:] == ("f32", 4)
    assert point.config.cpu.cpus == 1


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("input", "100x100", "input"),
        ("precision", "f64", "precision"),
        ("batch_size", "0", "batch_size"),
        ("batch_size", "9" * 5000, "batch_size"),
        ("devices", "gpu:0", "devices"),
        ("backend", "magic", "backend"),
    ],
)
def test_an_invalid_value_is_named(key: str, value: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        sweep_points(parse_config({}), {key: [value]})


def test_a_sweep_that_dumps_maps_or_has_too_many_points_is_refused() -> None:
    with pytest.raises(ConfigError, match="dump_maps: the points of a sweep"):
        sweep_points(parse_config({"dump_maps": "maps"}), {})
    counts = [str(count) for count in range(1, 258)]
    with pytest.raises(ConfigError, match="257 points, over the limit of 256"):
        sweep_points(parse_config({}), {"batch_size": counts})


def test_power_and_prices_are_those_of_devices_of_the_sweep(tmp_path: Path) -> None:
    points = sweep_points(parse_config({}), {"devices": ["cpu:1"]})
    with pytest.raises(ConfigError, match=r"--watts cuda:0: no point .* \(choose from cpu:1\)"):
        SweepPlan(
            config=parse_config({}), points=points, output=Location(tmp_path), watts={"cuda:0": 70}
        )


def test_a_label_has_the_settings_that_differ() -> None:
    points = sweep_points(parse_config({}), {"batch_size": ["1", "8"], "devices": ["cpu:1"]})
    assert [*suffixes(points).values()] == [" batch 1", " batch 8"]


def test_rounds_double_the_images_and_small_datasets_have_fewer() -> None:
    assert round_sizes(5000) == [625, 1250, 2500, 5000]
    assert round_sizes(128) == [32, 64, 128]
    assert round_sizes(63) == [63]
    assert round_sizes(1) == [1]


def test_the_images_of_a_round_are_among_those_of_the_next_and_always_the_same() -> None:
    ids = [3 * number for number in range(100)]
    first, second, whole = (chosen_images(ids, size) for size in (32, 64, 100))
    assert first < second < whole == frozenset(ids)
    assert first == chosen_images(ids, 32) != frozenset(ids[:32])
    assert len(first) == 32
