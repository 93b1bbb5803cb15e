"""The programs in `examples/` run unchanged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


def run_code(folder: Path, *arguments: str) -> str:
    # No other cluster on this machine is used.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    answer = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_run_from_python_is_read_by_the_report_reader(tmp_path: Path) -> None:
    out = run_code(tmp_path, str(EXAMPLES / "evaluate.py"))
    assert "on 8 images" in out
    rates = run_code(tmp_path, str(EXAMPLES / "read_report.py"), "runs/example")
    assert "cpu:0" in rates
    assert "all together" in rates


def test_the_package_with_a_backend_is_installed_and_evaluates_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A build leaves files in the folder of its project.
    project = shutil.copytree(EXAMPLES / "custom_backend", tmp_path / "project")
    options = ["--no-deps", "--no-build-isolation", "--target", str(tmp_path / "packages")]
    run_code(tmp_path, "-m", "pip", "install", "--quiet", *options, str(project))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    words = ["--set", "backend=opencv", "--set", "data.limit=2", "--set", "batch_size=1"]
    out = run_code(tmp_path, "-m", "distributed_pose", "evaluate", *words)
    assert "opencv" in out
    assert "OpenCV" in out


def test_the_notebook_runs_cell_by_cell(tmp_path: Path) -> None:
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    out = run_code(tmp_path, "-c", "\n".join("".join(cell) for cell in cells))
    assert "AP50" in out
    assert "preprocess" in out
