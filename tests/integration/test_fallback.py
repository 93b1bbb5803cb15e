"""`auto` uses the next backend that can start, and reports why the better one could not."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from distributed_pose import RunConfig, SetupError, evaluate
from distributed_pose.cli.terminal import Terminal
from distributed_pose.report.tables import run_tables
from tests.conftest import Dataset
from tests.fakes.ascend import stand_ins
from tests.fakes.hosts import Host, entered
from tests.tiny_models import save_constant_model


@pytest.fixture
def npu_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A machine with an Ascend 310P3, CANN and ais_bench."""
    (tmp_path / "host").mkdir()
    with entered(tmp_path / "host", monkeypatch) as host, stand_ins():
        host.npu()
        host.cann()
        host.source_cann()
        host.stand_in("ais_bench", "fake_om.py")
        yield host


def on_npu(people: Dataset, host: Host, backend: str) -> RunConfig:
    model = save_constant_model(host.folder / "model.onnx")
    settings = {"model": {"path": str(model)}, "npu": {"backend": backend}}
    values = {"devices": "npu:0", "batch_size": 1, "data": {"limit": 2}, **settings}
    return people.config(backend="auto", **values)


class TestOfAnNpu:
    def test_whose_runtime_refuses_the_model_uses_the_next_and_reports_why(
        self,
        people: Dataset,
        npu_host: Host,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        # The runtime reports another chip than `npu-smi`.
        acl: Any = importlib.import_module("acl.fake")
        acl.soc = "Ascend310"
        report = evaluate(on_npu(people, npu_host, "auto"), tmp_path / "run")
        (device,) = report.devices
        assert (report.complete, device.backend) == (True, "ascend-ais")
        (line,) = device.passed_over
        assert line.startswith("ascend cannot start: ")
        assert f"npu:0: backend ascend-ais, since {line}" in caplog.text
        written = json.loads((tmp_path / "run" / "report.json").read_text())
        assert written["devices"][0]["passed_over"] == [line]
        Terminal().print(*run_tables(report))
        assert "backend ascend-ais, since ascend cannot start" in capsys.readouterr().out

    @pytest.mark.parametrize("backend", ["auto", "ascend"])
    def test_without_a_known_chip_reports_what_names_it(
        self, people: Dataset, npu_host: Host, backend: str
    ) -> None:
        npu_host.tool("npu-smi", "no table")
        with pytest.raises(SetupError, match=r"ascend lacks the name of the chip.*npu\.soc=310P3"):
            evaluate(on_npu(people, npu_host, backend))
        known = on_npu(people, npu_host, backend)
        section = known.npu.model_copy(update={"soc": "310P3"})
        assert evaluate(known.model_copy(update={"npu": section})).complete

    def test_with_a_named_backend_fails_if_the_backend_does(
        self, people: Dataset, npu_host: Host
    ) -> None:
        acl: Any = importlib.import_module("acl.fake")
        acl.soc = "Ascend310"
        with pytest.raises(SetupError, match="another chip"):
            evaluate(on_npu(people, npu_host, "ascend"))


@pytest.fixture
def broken_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenVINO whose files exist but whose libraries do not load in new processes."""
    folder = tmp_path / "packages" / "openvino"
    folder.mkdir(parents=True)
    problem = "libopenvino.so.2640: undefined symbol: gone"
    (folder / "__init__.py").write_text(f"raise ImportError({problem!r})\nclass Core: ...\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))


@pytest.mark.slow
@pytest.mark.usefixtures("broken_openvino")
def test_workers_of_a_cluster_are_started_again_with_the_next_backend(
    people: Dataset, tmp_path: Path
) -> None:
    model = {"path": str(save_constant_model(tmp_path / "model.onnx"))}
    values = {"engine": "ray", "devices": "cpu:2", "model": model, "data": {"limit": 4}}
    # More CPUs than are reserved, so that ending processes do not block new ones.
    values["cpu"] = {"cpus": 1}
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20)
    try:
        report = evaluate(people.config(**{**values, "backend": "auto"}), tmp_path / "run")
        with pytest.raises(SetupError, match=r"openvino cannot be loaded: .*undefined symbol"):
            evaluate(people.config(**{**values, "backend": "openvino"}))
    finally:
        ray.shutdown()
    assert report.complete
    assert [device.backend for device in report.devices] == ["onnxruntime:cpu"] * 2
    for device in report.devices:
        (line,) = device.passed_over
        assert line.startswith("openvino cannot start: backend openvino cannot be loaded")
        assert "undefined symbol" in line


@pytest.mark.usefixtures("broken_openvino")
@pytest.mark.parametrize("command", ["host", "pipeline"])
def test_benchmarks_on_the_processor_go_on_with_the_next_backend(
    people: Dataset, tmp_path: Path, command: str
) -> None:
    values = {
        "data.images": people.images,
        "data.annotations": people.annotations,
        "data.limit": 2,
        "model.path": save_constant_model(tmp_path / "model.onnx"),
        "batch_size": 2,
        "engine": "inline",
    }
    words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    answer = subprocess.run(
        [sys.executable, "-m", "distributed_pose", "bench", command, "--repeat", "1", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "backend onnxruntime:cpu, since openvino cannot start" in answer.stderr
