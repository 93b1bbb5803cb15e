"""The backends of devices follow from missing requirements and from starts that fail."""

import pytest

from distributed_pose import ConfigError, SetupError, parse_config
from distributed_pose.backends.readiness import Readiness
from distributed_pose.backends.registry import candidates
from distributed_pose.config.selection import select
from distributed_pose.devices.lacks import Lack
from distributed_pose.engine.choice import Choice, Site, warn_passed_over
from distributed_pose.errors import BackendError
from distributed_pose.records.devices import DevicePlan

TENSORRT, TORCH, CUDA = candidates("auto", "cuda")
NVINFER = Lack("libnvinfer.so.10", "libnvinfer.so.11", "pip install 'tensorrt-cu13<11'")
CUDNN = Lack("libcudnn.so.9", "", "pip install 'onnxruntime-gpu[cuda,cudnn]'")


def site(number: int, name: str = "auto", **lacks: Lack) -> Site:
    """Returns a GPU on a node of its own, whose backends lack what is said of their variants."""
    plan = DevicePlan(
        name=f"cuda:{number}",
        kind="cuda",
        node=f"10.0.0.{number}",
        node_id=f"n{number}",
        cpus=1,
        device_id="0",
        model="T4",
    )
    backends = (
        Readiness(backend, (lack,) if (lack := lacks.get(backend.replace(":", "_"))) else ())
        for backend in candidates(name, "cuda")
    )
    return Site(plan, tuple(backends))


def choice(model_format: str = "pth", **values: object) -> Choice:
    return Choice(select(parse_config({"devices": "cuda:*", **values})), model_format)


def taken(choice: Choice, *sites: Site) -> list[str]:
    return [found.spec.backend for found in choice.deployments(sites).values()]


def test_the_best_is_taken_where_nothing_is_missing() -> None:
    deployments = choice().deployments([site(0)])
    assert deployments["cuda:0"].spec.backend == deployments["cuda:0"].order.backend == TENSORRT
    assert deployments["cuda:0"].passed_over == ()


@pytest.mark.parametrize(("model_format", "expected"), [("pth", TORCH), ("onnx", CUDA)])
def test_the_next_backend_that_runs_the_model_replaces_one_that_lacks_something(
    model_format: str, expected: str
) -> None:
    (found,) = choice(model_format).deployments([site(0, onnxruntime_tensorrt=NVINFER)]).values()
    assert found.spec.backend == expected
    # That PyTorch does not run ONNX models is not reported as missing.
    lacking = "onnxruntime:tensorrt lacks libnvinfer.so.10 (found libnvinfer.so.11)"
    assert found.passed_over == (f"{lacking}: pip install 'tensorrt-cu13<11'",)


def test_devices_of_a_kind_take_the_best_that_all_of_them_have() -> None:
    sites = [site(0), site(1, onnxruntime_tensorrt=NVINFER)]
    deployments = choice().deployments(sites)
    assert [found.spec.backend for found in deployments.values()] == [TORCH, TORCH]
    (line,) = deployments["cuda:0"].passed_over
    assert line.startswith("on cuda:1 (10.0.0.1) onnxruntime:tensorrt lacks libnvinfer.so.10")


def test_devices_without_any_in_common_take_their_own_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sites = [
        site(0, onnxruntime_cuda=CUDNN, torch_cuda=CUDNN),
        site(1, onnxruntime_tensorrt=NVINFER),
    ]
    deployments = choice("onnx").deployments(sites)
    assert [found.spec.backend for found in deployments.values()] == [TENSORRT, CUDA]
    warn_passed_over(deployments.values())
    expected = "on all cuda devices: onnxruntime:tensorrt on cuda:0, onnxruntime:cuda on cuda:1"
    assert expected in caplog.text


def test_a_reason_is_logged_once_for_all_devices_that_have_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sites = [site(number, onnxruntime_tensorrt=NVINFER) for number in range(5)]
    warn_passed_over(choice().deployments(sites).values())
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "cuda:0, cuda:1, cuda:2 and 2 more: backend torch:cuda, since onnxruntime:tensorrt lacks"
    )


def test_a_backend_that_cannot_start_on_one_device_is_ruled_out_for_its_kind() -> None:
    run, sites = choice(), [site(0), site(1)]
    first = run.deployments(sites)
    run.rule_out(BackendError("it refuses the graph", device="cuda:1"), first["cuda:1"])
    second = run.deployments(sites)
    assert [found.spec.backend for found in second.values()] == [TORCH, TORCH]
    reason = "onnxruntime:tensorrt cannot start: it refuses the graph"
    assert {found.passed_over for found in second.values()} == {(reason,)}


def test_where_none_can_start_the_error_is_that_of_the_best() -> None:
    run = choice()
    for number in range(3):
        error = BackendError(f"problem {number}", f"remedy {number}", device="cuda:0")
        run.rule_out(error, run.deployments([site(0)])["cuda:0"])
    with pytest.raises(SetupError, match=r"device cuda:0\] problem 0 \(remedy 0\)") as failed:
        run.deployments([site(0)])
    # It would be tried again for ever.
    assert not isinstance(failed.value, BackendError)


def test_a_backend_that_is_named_is_not_replaced() -> None:
    run = choice(backend=TENSORRT)
    deployment = run.deployments([site(0, TENSORRT)])["cuda:0"]
    error = BackendError("it refuses the graph", device="cuda:0")
    with pytest.raises(BackendError, match="it refuses the graph"):
        run.rule_out(error, deployment)


def test_the_error_of_a_named_backend_names_the_missing_part_and_its_remedy() -> None:
    run = choice(backend=TENSORRT)
    message = r"onnxruntime:tensorrt lacks libnvinfer\.so\.10 .*\(pip install 'tensorrt-cu13<11'\)"
    with pytest.raises(SetupError, match=message):
        run.deployments([site(0, TENSORRT, onnxruntime_tensorrt=NVINFER)])


def test_a_name_without_variant_leaves_the_choice_among_them() -> None:
    run = choice("onnx", backend="onnxruntime")
    assert taken(run, site(0, "onnxruntime", onnxruntime_tensorrt=NVINFER)) == [CUDA]


def test_where_no_backend_can_run_the_model_the_error_gives_the_reason_of_each() -> None:
    lacking = site(0, onnxruntime_tensorrt=NVINFER, onnxruntime_cuda=CUDNN)
    message = (
        r"device cuda:0\] no backend can run the model on cuda devices: "
        r"onnxruntime:tensorrt lacks libnvinfer.*; torch:cuda does not take this .*; "
        r"onnxruntime:cuda lacks libcudnn.so.9.*doctor.*devices=cpu"
    )
    with pytest.raises(SetupError, match=message):
        choice("onnx").deployments([lacking])


def test_a_precision_that_no_backend_of_a_kind_has_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="precision: int8 is not available"):
        Choice(select(parse_config({"precision": "int8"})), "onnx").deployments([site(0)])


def test_a_backend_that_compiles_for_one_size_is_not_chosen_for_inputs_of_any_width() -> None:
    assert taken(choice("onnx", profile="upstream"), site(0)) == [CUDA]


def test_a_compiled_model_needs_no_compiler() -> None:
    plan = DevicePlan(
        name="npu:0", kind="npu", node="", node_id="", cpus=1, device_id="0", model="310P3"
    )
    atc = Lack("atc", "", "source set_env.sh")
    backends = (Readiness("ascend", (), (atc,)), Readiness("onnxruntime:cann"))
    selection = select(parse_config({"devices": "npu:*"}))
    found = {
        model_format: taken(Choice(selection, model_format), Site(plan, backends))
        for model_format in ("om", "onnx")
    }
    assert found == {"om": ["ascend"], "onnx": ["onnxruntime:cann"]}


def test_a_chip_of_unknown_name_leaves_the_backends_that_compile_for_none() -> None:
    plan = DevicePlan(name="npu:0", kind="npu", node="", node_id="", cpus=1, device_id="0")
    chip = Lack("the name of the chip", "", "set npu.soc=310P3")
    backends = (Readiness("ascend", (), (chip,)), Readiness("onnxruntime:cann"))
    run = Choice(select(parse_config({"devices": "npu:*"})), "onnx")
    (found,) = run.deployments([Site(plan, backends)]).values()
    assert found.spec.backend == "onnxruntime:cann"
    assert found.passed_over == ("ascend lacks the name of the chip: set npu.soc=310P3",)
