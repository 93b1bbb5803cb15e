"""A missing optional package is named with its extra before a device starts."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distributed_pose import SetupError
from distributed_pose.backends.base import BackendOptions
from distributed_pose.backends.readiness import examine
from distributed_pose.backends.registry import BACKENDS, candidates, open_backend
from distributed_pose.cli.main import app
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.packages import require
from tests.checkpoints import demo_state, saved
from tests.conftest import Dataset

REPOSITORY = Path(__file__).parents[2]


def remove(monkeypatch: pytest.MonkeyPatch, modules: Iterable[str]) -> None:
    """Makes modules fail to import, as if they were not installed."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_an_installed_package_is_not_an_error() -> None:
    require("numpy", extra="cpu", purpose="nothing")


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(SetupError) as caught:
        require("nosuchpackage", extra="int8", purpose="precision int8")
    assert str(caught.value) == (
        "precision int8 needs nosuchpackage, which is not installed "
        "(pip install 'distributed-pose[int8]')"
    )


def test_every_extra_that_the_code_names_exists() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    sources = (REPOSITORY / "distributed_pose").rglob("*.py")
    pattern = re.compile(r"""(?:extra=|install_hint\()["'](\w+)""")
    named = {name for path in sources for name in pattern.findall(path.read_text())}
    # A setting of records.
    named -= {"forbid"}
    assert named >= {"cpu", "gpu", "tensorrt", "cann", "torch", "int8", "cluster", "plots"}
    assert named <= project["optional-dependencies"].keys()


OPTIONAL = [
    ("openvino", "openvino", "cpu"),
    ("onnxruntime:cpu", "onnxruntime", "cpu"),
    ("torch:cpu", "torch", "torch"),
]


@pytest.mark.parametrize(("name", "module", "extra"), OPTIONAL)
def test_a_backend_is_opened_only_with_its_package(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(monkeypatch, [module])
    monkeypatch.delitem(sys.modules, BACKENDS[name].factory.partition(":")[0], raising=False)
    message = rf"^backend {name} lacks {module}.* \(pip install 'distributed-pose\[{extra}\]'\)"
    with pytest.raises(SetupError, match=message):
        open_backend(name, b"", BackendOptions())


def test_a_missing_package_is_a_backend_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    remove(monkeypatch, ["openvino", "torch"])
    found = examine(candidates("auto", "cpu"))
    assert [ready.backend for ready in found if not ready.lacks] == ["onnxruntime:cpu"]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of torch.save that is not in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a.pth"
    path.write_bytes(saved(demo_state()))
    return path


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        (
            "torch",
            {"model.path": "a.pth"},
            "reading the PyTorch file a.pth needs torch",
        ),
        ("torch", {"backend": "torch"}, "backend torch:cpu lacks torch"),
        ("openvino", {"backend": "openvino"}, "backend openvino lacks openvino.Core"),
        ("nncf", {"precision": "int8"}, "precision int8 needs nncf"),
    ],
)
def test_a_run_without_a_required_package_ends_with_the_command_that_installs_it(
    people: Dataset,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    given: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    remove(monkeypatch, [module])
    values: dict[str, object] = {
        "data.images": people.images,
        "data.annotations": people.annotations,
    }
    values |= {"engine": "inline", "model.path": WEIGHTS, **given}
    options = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    answer = CliRunner().invoke(app, ["evaluate", *options])
    assert isinstance(answer.exception, SetupError)
    assert message in str(answer.exception)
    assert "pip install 'distributed-pose[" in str(answer.exception)


def test_a_scaling_experiment_without_plots_ends_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove(monkeypatch, ["matplotlib"])
    answer = CliRunner().invoke(app, ["scale", "--devices", "1"])
    assert "the plot of `scale` needs matplotlib" in str(answer.exception)


def test_the_demo_runs_on_onnx_runtime_without_any_package_of_another_extra(tmp_path: Path) -> None:
    absent = ("torch", "openvino", "nncf", "matplotlib", "grpc", "requests")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        "from distributed_pose.cli.main import app; app(['evaluate', '--set', 'engine=inline', "
        "'--set', 'data.limit=1', '--json', '--output', sys.argv[1]])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "onnxruntime" in answer.stdout


def test_openvino_is_loaded_without_sending_that_it_was(tmp_path: Path) -> None:
    code = (
        "import sys, distributed_pose.backends.openvino, openvino\n"
        "print(any(name.startswith('openvino_telemetry') for name in sys.modules))\n"
        "import openvino_telemetry\n"
    )
    # Outside of continuous integration, a first import sends an event and keeps an id at home.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout == "False\n"
    assert [*tmp_path.iterdir()] == []
