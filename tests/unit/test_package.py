"""The package imports no runtime, and its public names are fixed."""

import os
import subprocess
import sys

import pytest

import distributed_pose

HEAVY = (
    "ray",
    "nncf",
    "ais_bench",
    "torch",
    "openvino",
    "onnxruntime",
    "cv2",
    "acl",
    "tensorrt",
    "pyarrow",
)


def test_importing_the_package_loads_no_runtime() -> None:
    code = f"import sys, distributed_pose; print([m for m in {HEAVY} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command", ["--help", "compile --help", "devices", "doctor", "report table --reference guide"]
)
def test_help_and_the_list_of_devices_load_no_runtime(command: str) -> None:
    code = (
        f"import sys; from distributed_pose.cli.main import app; app({command.split()}, "
        f"standalone_mode=False); print([m for m in {HEAVY} if m in sys.modules])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert len(answer.stdout.splitlines()) > 3
    assert answer.stdout.splitlines()[-1] == "[]"


def test_the_public_names_are_these() -> None:
    assert sorted(distributed_pose.__all__) == [
        "ConfigError",
        "ExecutionError",
        "PoseEvalError",
        "RunConfig",
        "RunReport",
        "SetupError",
        "__version__",
        "evaluate",
        "load_config",
        "parse_config",
    ]
    assert all(hasattr(distributed_pose, name) for name in distributed_pose.__all__)
