"""A backend, and a kind of device, that another package adds by one file and one entry point."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import two_nodes
from tests.plugins import install

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_backend"

# Runs `distributed-pose` with these arguments in a process of its own; returns stdout and stderr.
Command = Callable[..., tuple[str, str]]

PROJECT = """
[project]
name = "{name}"
version = "1.2"

[project.entry-points."{group}"]
{points}
"""


def project(folder: Path, name: str, group: str, points: str, module: str = "") -> Path:
    """Writes a project with entry points of a group, and a module `toy`."""
    folder.mkdir()
    text = PROJECT.format(name=name, group=f"distributed_pose.{group}", points=points)
    (folder / "pyproject.toml").write_text(text)
    (folder / "toy.py").write_text(module)
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, which new processes on this machine find."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    return tmp_path / "packages"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    def run(*arguments: str, code: int = 0, **variables: str) -> tuple[str, str]:
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        answer = subprocess.run(
            [sys.executable, "-m", "distributed_pose", *arguments],
            cwd=tmp_path,
            env={**environment, "COLUMNS": "200", **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == code, answer.stderr
        return answer.stdout, answer.stderr

    return run


def settings(**values: object) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def report(command: Command, *words: str, **variables: str) -> Any:
    return json.loads(
        command("evaluate", *words, "--set", "data.limit=2", "--json", **variables)[0]
    )


class TestOfABackend:
    def test_that_a_package_registers_runs_the_demo_as_the_built_in_ones_do(
        self, packages: Path, command: Command
    ) -> None:
        install(EXAMPLE, packages)
        own = report(command, *settings(backend="opencv", engine="ray", batch_size=1))
        usual = report(command, *settings(backend="onnxruntime", engine="inline", batch_size=1))
        assert own["ap"] == pytest.approx(usual["ap"], abs=1e-3)
        (device,) = own["devices"]
        assert (device["backend"], device["precision"]) == ("opencv", "f32")
        assert device["versions"]["pose-opencv"] == "1.0"
        assert "opencv-python-headless" in device["versions"]

    def test_is_a_choice_of_the_configuration_and_the_last_one_of_auto(
        self, packages: Path, command: Command
    ) -> None:
        install(EXAMPLE, packages)
        keys, _ = command("config", "keys")
        assert "simulated:t4, opencv" in keys
        _, error = command("config", "show", "--set", "backend=opencvv", code=2)
        assert "did you mean 'opencv'?" in error
        doctor = json.loads(command("doctor", "--json", *settings(engine="inline"))[0])
        assert [*doctor["devices"][-1]["backends"]][:1] == ["openvino"]
        assert doctor["devices"][-1]["backends"].popitem() == ("opencv", [])

    def test_of_another_version_does_not_go_on_with_a_run(
        self, packages: Path, tmp_path: Path, command: Command
    ) -> None:
        entry = "distributed_pose.backends.oracle:OracleBackend"
        module = (
            "from distributed_pose.backends.spec import BackendSpec\n"
            f"SPEC = BackendSpec('{entry}', (), ('f32',), runs_model=False)\n"
        )
        toy = project(tmp_path / "project", "toy-pose", "backends", 'toy = "toy:SPEC"', module)
        install(toy, packages)
        words = [*settings(backend="toy", engine="inline"), "--output", "run"]
        assert report(command, *words)["complete"]
        metadata = packages / "toy_pose-1.2.dist-info" / "METADATA"
        metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
        _, error = command("evaluate", *words, "--set", "data.limit=2", code=3)
        assert "toy-pose 1.2" in error
        assert "toy-pose 1.3" in error

    def test_that_computes_in_another_precision_than_requested_is_refused(
        self, packages: Path, tmp_path: Path, command: Command
    ) -> None:
        entry = "distributed_pose.backends.oracle:OracleBackend"
        module = (
            "from distributed_pose.backends.spec import BackendSpec\n"
            f"SPEC = BackendSpec('{entry}', (), ('f32', 'f16'), runs_model=False)\n"
        )
        toy = project(tmp_path / "project", "toy-pose", "backends", 'toy = "toy:SPEC"', module)
        install(toy, packages)
        words = ["evaluate", "--set", "data.limit=2", *settings(backend="toy", engine="inline")]
        _, error = command(*words, "--set", "precision=f16", code=3)
        assert "the compiled model has precision f32, not f16" in error
        assert "precision=f32" in error

    @pytest.mark.parametrize(
        ("points", "module", "message"),
        [
            ('toy = "nowhere:SPEC"', "", "No module named 'nowhere'"),
            ('toy = "toy:SPEC"', "SPEC = 1", "is int, and must be BackendSpec"),
            ('toy = "toy:SPEC"', "raise OSError('libtoy.so: not found')", "libtoy.so: not found"),
            ('torch = "toy:SPEC"', "", "the name is taken already"),
            ('"A b" = "toy:SPEC"', "", "the name is not a valid name"),
        ],
    )
    def test_whose_package_is_broken_is_left_out_with_a_warning(
        self,
        packages: Path,
        tmp_path: Path,
        command: Command,
        points: str,
        module: str,
        message: str,
    ) -> None:
        install(project(tmp_path / "project", "toy-pose", "backends", points, module), packages)
        out, error = command("config", "show", "--set", "backend=onnxruntime")
        assert "backend: onnxruntime" in out
        assert message in error
        assert "toy-pose 1.2" in error


KIND = """
import os

from distributed_pose.devices.kinds import DeviceKind
from distributed_pose.devices.planning import Accelerator

# Ray numbers the devices of its resource HPU, and sets this variable to those of a process.
KIND = DeviceKind(
    resource="HPU",
    labels=("soc",),
    variable="HABANA_VISIBLE_MODULES",
    lister="toy:cards",
    versions="toy:versions",
)


def cards():
    return [Accelerator("hpu", str(number), "Gaudi") for number in range(2)]


def versions():
    return {"visible": os.environ["HABANA_VISIBLE_MODULES"]}
"""


class TestOfAKindOfDevice:
    @pytest.fixture
    def kind(self, packages: Path, tmp_path: Path) -> None:
        points = 'hpu = "toy:KIND"'
        install(project(tmp_path / "project", "toy-kind", "device_kinds", points, KIND), packages)

    @pytest.fixture
    def cluster(self, kind: None) -> Iterator[str]:
        """The address of two nodes with two devices each, as far as Ray knows."""
        del kind
        with two_nodes(npus=0, cpus=2, hpus=2):
            import ray

            yield ray.get_runtime_context().gcs_address

    @pytest.mark.usefixtures("kind")
    def test_has_a_section_and_its_devices_are_found_and_chosen_by_number(
        self, command: Command
    ) -> None:
        assert "hpu.batch_size: integer or auto" in command("config", "keys")[0]
        words = settings(backend="oracle", engine="inline", devices="hpu:1")
        out, _ = command("devices", *words, "--set", "hpu.batch_size=3")
        assert "Gaudi" in out
        (row,) = (line.split() for line in out.splitlines() if "hpu:" in line)
        assert row[1::2][:2] == ["hpu:1", "Gaudi"]
        _, error = command("evaluate", "--set", "devices=hpu", code=2)
        assert "'cuda:*' or 'hpu:*' or 'npu:*'" in error

    @pytest.mark.usefixtures("kind")
    def test_without_a_backend_is_left_out_with_a_warning(self, command: Command) -> None:
        words = settings(engine="inline", **{"data.limit": 2})
        out, error = command("evaluate", *words, "--json")
        assert [device["name"] for device in json.loads(out)["devices"]] == ["cpu:0"]
        assert "hpu devices are left out: no installed package has a backend" in error

    @pytest.mark.slow
    def test_is_planned_and_pinned_on_a_cluster(self, cluster: str, command: Command) -> None:
        words = settings(backend="oracle", devices="hpu:*")
        out, _ = command("devices", *words, RAY_ADDRESS=cluster)
        assert [f"hpu:{number}" in out for number in range(5)] == [True] * 4 + [False]
        found = report(command, *words, RAY_ADDRESS=cluster)
        assert found["complete"]
        seen = [(d["name"], d["physical_id"], d["versions"]["visible"]) for d in found["devices"]]
        assert seen == [(f"hpu:{number}", str(number % 2), str(number % 2)) for number in range(4)]
        assert {device["versions"]["toy-kind"] for device in found["devices"]} == {"1.2"}
