"""On emulated machines, `doctor` names the backend in use, what others lack, and the fix."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.fakes.ascend import network
from tests.fakes.hosts import Host, entered

NO_CUDNN = ("libnvinfer.so.10",)
ALL_LIBRARIES = ("libcudnn.so.9", "libnvinfer.so.10")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    (tmp_path / "host").mkdir()
    with entered(tmp_path / "host", monkeypatch) as host:
        yield host


class Answer:
    """The output of `doctor`."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.backends = dict(re.findall(r"^ [ *] (\S+) +(\S.*)$", output, re.MULTILINE))
        self.taken = re.findall(r"^ \* (\S+)", output, re.MULTILINE)
        # The outputs are equal except for the paths of these machines.
        assert max(len(line) for line in output.splitlines() if "/host/" not in line) <= 80

    def remedy(self, what: str) -> str:
        """Returns the note on a missing component, in one line."""
        notes = re.split(r"^(?=\[\d+\] )", self.output.partition("\n[1]")[2], flags=re.MULTILINE)
        (note,) = (note for note in notes if what in " ".join(note.split()))
        return " ".join(note.split())


@pytest.fixture
def ask(run: Run) -> "Ask":
    return Ask(run)


class Ask:
    """Runs `doctor`, and checks its exit code."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, *options: str, code: int) -> Answer:
        found, out, err = self._run("doctor", *options)
        assert (found, err) == (code, "")
        return Answer(out)


def test_this_machine_can_run_a_model_on_its_cpu(run: Run) -> None:
    _, out, _ = run("doctor", "--set", "devices=cpu")
    answer = Answer(out)
    assert answer.taken == ["openvino"]
    assert answer.backends["openvino"] == "ready, used"
    assert answer.backends["onnxruntime:cpu"] == "ready"
    assert answer.backends["torch:cpu"] == "ready, for checkpoints (.pth) alone"
    assert answer.backends["clusters"] == "ready"


class TestNpuHost:
    def test_without_cann_lacks_it_and_can_still_use_its_cpu(self, ask: Ask, host: Host) -> None:
        host.npu()
        answer = ask(code=3)
        assert answer.taken == ["openvino"]
        assert answer.backends["ascend"] == "lacks CANN [1]"
        assert "0 of 1 devices can run a model" in answer.output
        assert "cpu:0: processor, this machine, used only without an accelerator" in answer.output

    def test_whose_cann_is_not_in_the_environment_gets_the_script_to_source(
        self, ask: Ask, host: Host
    ) -> None:
        host.npu()
        script = host.cann()
        answer = ask(code=3)
        assert answer.backends["ascend"] == "lacks the Python module acl [1]"
        note = answer.remedy("the Python module acl")
        assert f"source {script} before starting" in note
        # The same fix applies to another backend.
        assert "libascendcl.so" in note

    def test_with_cann_uses_pyacl(self, ask: Ask, host: Host) -> None:
        host.npu()
        host.cann()
        host.source_cann()
        answer = ask(code=0)
        assert answer.taken == ["ascend", "openvino"]

    def test_whose_pyacl_does_not_find_its_libraries_lacks_the_first_of_them(
        self, ask: Ask, host: Host
    ) -> None:
        host.npu()
        host.cann()
        problem = "libascend_hal.so: cannot open shared object file: No such file or directory"
        host.package("acl", f"raise ImportError({problem!r})\n")
        answer = ask(code=3)
        assert answer.backends["ascend"] == "lacks libascend_hal.so [1]"
        assert "acl.mdl needs it" in answer.remedy("libascend_hal.so")

    def test_with_ais_bench_uses_it_if_pyacl_is_missing(self, ask: Ask, host: Host) -> None:
        host.npu()
        host.cann()
        host.stand_in("ais_bench", "fake_om.py")
        answer = ask(code=0)
        assert answer.taken == ["ascend-ais", "openvino"]
        assert answer.backends["ascend"] == "lacks the Python module acl [1]"

    def test_with_another_package_of_that_name_lacks_ais_bench(self, ask: Ask, host: Host) -> None:
        host.npu()
        host.cann()
        host.package("ais_bench")
        host.distribution("ais-bench-benchmark", "3.0.1")
        answer = ask(code=3)
        lacking = "ais_bench.infer.interface.InferSession"
        assert answer.backends["ascend-ais"].startswith(f"lacks {lacking}")
        note = answer.remedy(lacking)
        assert "found the ais_bench of ais-bench-benchmark 3.0.1" in note
        assert "ais_bench-*.whl aclruntime-*.whl" in note

    def test_with_onnx_runtime_for_cann_needs_numpy_1(self, ask: Ask, host: Host) -> None:
        host.npu()
        host.cann()
        host.onnxruntime_cann()
        os.environ["ASCEND_OPP_PATH"] = str(host.folder)
        answer = ask("--set", "npu.backend=onnxruntime", code=3)
        assert answer.backends["onnxruntime:cann"].startswith("lacks numpy<2 [")
        assert "pip install 'numpy<2' 'opencv-python-headless<4.12'" in answer.remedy("numpy<2")

    def test_with_onnx_runtime_for_cann_and_numpy_1_uses_it(self, ask: Ask, host: Host) -> None:
        host.npu()
        host.onnxruntime_cann()
        host.distribution("numpy", "1.26.4")
        os.environ["ASCEND_OPP_PATH"] = str(host.folder)
        assert ask(code=0).taken == ["onnxruntime:cann", "openvino"]

    def test_needs_no_backend_for_its_processor(self, ask: Ask, host: Host) -> None:
        host.npu()
        host.cann()
        host.source_cann()
        host.package("openvino")
        openvino = ("--set", "cpu.backend=openvino")
        answer = ask(*openvino, code=0)
        assert answer.taken == ["ascend"]
        assert answer.backends["openvino"].startswith("lacks openvino.Core [")
        assert ask(*openvino, "--set", "devices=[npu:0, cpu]", code=3).taken == ["ascend"]

    def test_without_a_driver_lacks_that_of_the_card_on_its_bus(self, ask: Ask, host: Host) -> None:
        host.pci("0000:01:00.0", "0x19e5", "0x120000")
        answer = ask(code=3)
        assert "npu-smi info must list" in answer.remedy(
            "driver of the Ascend card at 0000:01:00.0"
        )


class TestGpuHost:
    def test_with_all_libraries_uses_tensorrt(self, ask: Ask, host: Host) -> None:
        host.gpu()
        host.onnxruntime_gpu(*ALL_LIBRARIES)
        assert ask(code=0).taken == ["onnxruntime:tensorrt", "openvino"]

    def test_with_tensorrt_11_lacks_tensorrt_10(self, ask: Ask, host: Host) -> None:
        host.gpu()
        host.onnxruntime_gpu("libcudnn.so.9", "libnvinfer.so.11")
        answer = ask(code=0)
        assert answer.taken == ["onnxruntime:cuda", "openvino"]
        assert answer.backends["onnxruntime:tensorrt"] == "lacks libnvinfer.so.10 [1]"
        note = answer.remedy("libnvinfer.so.10")
        assert "found libnvinfer.so.11" in note
        assert "pip install 'tensorrt-cu13<11'" in note

    def test_without_cudnn_lacks_it_for_both_providers(self, ask: Ask, host: Host) -> None:
        host.gpu()
        host.onnxruntime_gpu(*NO_CUDNN)
        answer = ask(code=3)
        for name in ("onnxruntime:tensorrt", "onnxruntime:cuda"):
            assert answer.backends[name] == "lacks libcudnn.so.9 [1]"
        assert "onnxruntime-gpu[cuda,cudnn]" in answer.remedy("libcudnn.so.9")

    def test_with_pytorch_for_processors_lacks_one_with_cuda(self, ask: Ask, host: Host) -> None:
        host.gpu()
        host.torch("2.13.0", None)
        answer = ask(code=3)
        assert answer.backends["torch:cuda"].startswith("lacks PyTorch built with CUDA")
        assert "found torch 2.13.0" in answer.remedy("PyTorch built with CUDA")

    def test_with_an_older_driver_than_pytorch_needs_lacks_a_newer_one(
        self, ask: Ask, host: Host
    ) -> None:
        host.gpu(driver=12040)
        host.torch("2.13.0", "13.0")
        answer = ask(code=3)
        assert "found one for CUDA 12.4" in answer.remedy("driver for CUDA 13")

    def test_uses_pytorch_for_checkpoints_and_says_so(self, ask: Ask, host: Host) -> None:
        host.gpu()
        host.torch("2.13.0", "12.8")
        answer = ask(code=0)
        assert answer.taken == ["torch:cuda", "openvino"]
        assert answer.backends["torch:cuda"] == "ready, used, for checkpoints (.pth) alone"

    def test_with_only_pytorch_cannot_run_an_onnx_model(self, ask: Ask, host: Host) -> None:
        host.gpu()
        host.torch("2.13.0", "12.8")
        model = host.folder / "model.onnx"
        model.write_bytes(network())
        assert ask("--set", f"model.path={model}", code=3).taken == ["openvino"]

    def test_whose_driver_is_not_loaded_gets_the_message_of_its_tool(
        self, ask: Ask, host: Host
    ) -> None:
        host.pci("0000:3b:00.0", "0x10de", "0x030200")
        said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
        host.tool("nvidia-smi", said, code=9)
        note = ask(code=3).remedy("driver of the NVIDIA card at 0000:3b:00.0")
        assert said in note

    def test_without_a_driver_lacks_that_of_the_card_on_its_bus(self, ask: Ask, host: Host) -> None:
        host.pci("0000:3b:00.0", "0x10de", "0x030000")
        host.pci("0000:3b:00.1", "0x10de", "0x040300")
        answer = ask(code=3)
        assert "found no nvidia-smi" in answer.remedy("driver of the NVIDIA card at 0000:3b:00.0 (")


def test_a_backend_that_is_named_is_the_only_one_that_counts(ask: Ask, host: Host) -> None:
    host.gpu()
    host.onnxruntime_gpu("libcudnn.so.9")
    named = ("--set", "cuda.backend=onnxruntime:tensorrt")
    assert ask(*named, code=3).taken == ["openvino"]
    assert ask("--set", "cuda.backend=onnxruntime", code=0).taken == [
        "onnxruntime:cuda",
        "openvino",
    ]


def test_a_backend_without_a_device_ends_with_exit_code_3(ask: Ask, host: Host) -> None:
    del host
    assert (
        "no device that the configured backend runs on"
        in ask("--set", "backend=ascend", code=3).output
    )


def test_results_can_be_printed_as_json(run: Run, host: Host) -> None:
    host.gpu()
    host.onnxruntime_gpu("libcudnn.so.9")
    code, out, _ = run("doctor", "--json", "--set", "devices=cuda:0")
    record = json.loads(out)
    (device,) = record["devices"]
    assert (code, record["ready"], device["takes"]) == (0, True, "onnxruntime:cuda")
    (lack,) = device["backends"]["onnxruntime:tensorrt"]
    assert lack["what"] == "libnvinfer.so.10"
    assert device["backends"]["onnxruntime:cuda"] == []


def test_devices_lists_the_backend_of_each_device(run: Run, host: Host) -> None:
    host.gpu()
    host.onnxruntime_gpu("libcudnn.so.9")
    code, out, err = run("devices")
    assert (code, err) == (0, "")
    assert re.search(r"cuda:0 .* Tesla T4 .* onnxruntime:cuda ", out)


def test_a_card_without_a_backend_is_left_out_and_its_missing_requirements_are_named(
    run: Run, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.npu()
    code, out, _ = run("devices")
    assert code == 0
    assert "cpu:0" in out
    assert "npu:0" not in out
    assert re.search(r"npu devices are left out: ascend lacks CANN.*pose doctor", caplog.text)
