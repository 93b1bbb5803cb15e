"""A configuration becomes deployments of devices, or a configuration error."""

from dataclasses import replace

import pytest

from distributed_pose import ConfigError, parse_config
from distributed_pose.config.selection import Selection, select
from distributed_pose.devices.planning import Accelerator
from distributed_pose.engine.deployment import (
    Deployment,
    chip_of,
    fits,
    on_this_machine,
    plan_deployment,
    usable_here,
)
from distributed_pose.records.devices import DevicePlan

NPU = DevicePlan(
    name="npu:3", kind="npu", node="10.0.0.1", node_id="a", cpus=1, device_id="3", model="310P3"
)
GPU = DevicePlan(
    name="cuda:1",
    kind="cuda",
    node="10.0.0.1",
    node_id="a",
    cpus=1,
    device_id="1",
    model="Tesla T4",
)
CPU = DevicePlan(name="cpu:1", kind="cpu", node="10.0.0.1", node_id="a", cpus=4)


def selected(**values: object) -> Selection:
    return select(parse_config(values))


def deployed(plan: DevicePlan, selection: Selection) -> Deployment:
    """Returns what runs on a device with the backend that is configured, or the usual one."""
    usual = {"npu": "ascend", "cuda": "onnxruntime:cuda", "cpu": "openvino"}
    backend = selection.kinds[plan.kind].backend
    return plan_deployment(selection, plan, usual[plan.kind] if backend == "auto" else backend)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"devices": ["npu:*", "cuda:0", "cpu"]},
        {"devices": ["npu:*", "cpu"], "npu": {"backend": "ascend", "precision": "f16"}},
        {"backend": "ascend"},
        {"backend": "onnxruntime", "devices": ["cuda:0", "cpu"], "cuda": {"precision": "f16"}},
        {"backend": "oracle", "npu": {"backend": "simulated"}, "devices": ["npu:0", "cpu"]},
        {"precision": "int8"},
    ],
)
def test_a_possible_configuration_is_accepted(values: dict[str, object]) -> None:
    assert selected(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "openvino", "devices": "npu:0"}, "openvino does not run .* npu"),
        ({"backend": "ascend", "devices": ["npu:0", "cpu"]}, "ascend does not run .* cpu"),
        ({"precision": "int8", "devices": ["cuda:0", "cpu"]}, "int8 is not available"),
        ({"backend": "ascend", "precision": "bf16"}, "bf16 is not available on backend ascend"),
        (
            {"devices": ["npu:0", "cpu"], "npu": {"backend": "simulated"}},
            "auto, simulated cannot be in one run",
        ),
    ],
)
def test_an_impossible_configuration_is_a_config_error(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        selected(**values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "model"),
        ({"backend": "ascend"}, "model"),
        ({"backend": "recorded"}, "recording"),
        ({"backend": "oracle"}, "truth"),
        ({"backend": "simulated:t4", "devices": "cuda:*"}, "truth"),
        ({"devices": "npu:*", "npu": {"backend": "simulated:ascend310"}}, "truth"),
        ({"npu": {"backend": "simulated"}}, "model"),
    ],
)
def test_the_source_of_a_run_is_that_of_its_backends(
    values: dict[str, object], expected: str
) -> None:
    found = selected(**values)
    assert found.source == expected
    assert found.runs_model is (expected == "model")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("npu", "cuda")),
        ({"backend": "openvino"}, ()),
        ({"backend": "torch"}, ("cuda",)),
        ({"backend": "onnxruntime"}, ("npu", "cuda")),
        ({"backend": "onnxruntime:cpu"}, ()),
        ({"backend": "ascend"}, ("npu",)),
        ({"backend": "oracle"}, ()),
        ({"backend": "openvino", "cuda": {"backend": "torch"}}, ("cuda",)),
    ],
)
def test_auto_takes_the_accelerators_that_the_backend_runs_on(
    values: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert selected(**values).auto_kinds == expected


def test_a_device_has_the_settings_of_its_kind() -> None:
    settings = selected(batch_size=2, npu={"batch_size": 4, "precision": "f16"}, precision="f32")
    npu, cpu = (deployed(plan, settings) for plan in (NPU, CPU))
    assert (npu.spec.backend, npu.spec.precision, npu.spec.batch_sizes) == ("ascend", "f16", (4,))
    assert (cpu.spec.backend, cpu.spec.precision, cpu.spec.batch_sizes) == (
        "openvino",
        "f32",
        (2,),
    )
    assert npu.order.batch_sizes == (4,)
    assert npu.spec.plan == NPU


def test_an_artifact_is_bound_to_a_chip_only_where_its_compiler_must_know() -> None:
    def target(plan: DevicePlan, **values: object) -> str:
        return deployed(plan, selected(**values)).order.target

    assert target(NPU) == "Ascend310P3"
    assert target(NPU, npu={"soc": "310"}) == "Ascend310"
    assert target(replace(NPU, model="")) == ""
    assert target(GPU, backend="onnxruntime:tensorrt") == "Tesla T4"
    assert target(GPU, backend="onnxruntime:cuda") == ""
    assert target(CPU) == ""


@pytest.mark.parametrize(
    ("asked", "model_format", "expected"),
    [
        ("auto", "onnx", "f16"),
        ("auto", "om", "auto"),
        ("f32", "om", "f32"),
    ],
)
def test_the_precision_of_a_compiled_model_is_not_requested(
    asked: str, model_format: str, expected: str
) -> None:
    found = plan_deployment(selected(precision=asked), NPU, "ascend", model_format)
    assert (found.spec.precision, found.order.precision) == (expected, expected)


def test_devices_alike_have_one_order() -> None:
    orders = {
        deployed(replace(NPU, name=f"npu:{n}", device_id=f"{n}"), selected()).order
        for n in range(4)
    }
    assert len(orders) == 1


def test_an_automatic_batch_size_is_swept_from_one_to_thirty_two() -> None:
    deployment = deployed(NPU, selected(batch_size="auto"))
    assert deployment.spec.batch_sizes == deployment.order.batch_sizes == (1, 2, 4, 8, 16, 32)


def test_a_process_that_sees_all_devices_counts_them() -> None:
    here = [on_this_machine(deployed(plan, selected())) for plan in (NPU, GPU, CPU)]
    assert [deployment.spec.index for deployment in here] == [3, 1, 0]
    # What is compiled for one card of a machine is compiled on it.
    assert [deployment.order.index for deployment in here] == [3, 1, 0]


@pytest.mark.parametrize(
    ("values", "backend", "model_format", "expected"),
    [
        ({}, "torch:cuda", "pth", True),
        ({}, "torch:cuda", "onnx", False),
        ({}, "onnxruntime:cuda", "om", False),
        ({}, "ascend", "om", True),
        ({}, "onnxruntime:tensorrt", "onnx", True),
        ({"profile": "upstream"}, "onnxruntime:tensorrt", "onnx", False),
        ({"profile": "upstream"}, "onnxruntime:cuda", "onnx", True),
        ({"precision": "bf16"}, "openvino", "onnx", True),
        ({"precision": "bf16"}, "onnxruntime:cpu", "onnx", False),
        ({"backend": "oracle"}, "oracle", "truth", True),
    ],
)
def test_a_backend_is_for_models_profiles_and_precisions_that_it_has(
    values: dict[str, object], backend: str, model_format: str, *, expected: bool
) -> None:
    assert fits(backend, selected(**values), "cpu", model_format) is expected


def test_a_chip_is_the_configured_or_reported_one_and_empty_if_it_is_not_valid() -> None:
    assert chip_of(selected(), NPU) == "Ascend310P3"
    assert chip_of(selected(npu={"soc": "310"}), NPU) == "Ascend310"
    assert chip_of(selected(), replace(NPU, model="of-some-kind")) == ""
    assert chip_of(selected(), GPU) == ""


def test_cards_of_unknown_model_count_as_different_ones() -> None:
    cards = [replace(GPU, name=f"cuda:{n}", model="") for n in range(2)]
    settings = selected(backend="onnxruntime:tensorrt")
    assert len({deployed(card, settings).order for card in cards}) == 2


@pytest.mark.parametrize(
    ("values", "expected", "warnings"),
    [
        # No machine that tests this has CANN.
        ({}, ("cuda",), 1),
        ({"npu": {"backend": "onnxruntime"}}, ("cuda",), 1),
        ({"devices": "npu:*"}, ("cuda",), 0),
        ({"npu": {"backend": "ascend"}}, ("npu", "cuda"), 0),
        ({"backend": "simulated", "devices": "npu:*"}, (), 0),
    ],
)
def test_auto_leaves_out_devices_without_an_installed_backend_with_a_warning(
    caplog: pytest.LogCaptureFixture,
    values: dict[str, object],
    expected: tuple[str, ...],
    warnings: int,
) -> None:
    assert usable_here(selected(**values), [Accelerator("npu", "0", "310P3")]) == expected
    messages = [record.getMessage() for record in caplog.records]
    left_out = [text for text in messages if "npu devices are left out" in text]
    assert len(left_out) == warnings
    assert all("onnxruntime:cann lacks onnxruntime-cann" in text for text in left_out)
