"""Vendors' wheels, unpacked beside each other in a folder of the cache."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from platformdirs import user_cache_path

_TIMEOUT_S = 900


def unpacked_sources(requirement: str) -> Path:
    """Returns the folder of a package of which the index has only sources.

    The package is neither built nor run. The test is skipped if the index cannot be reached.

    Args:
        requirement: requirement with a version, such as `msit==8.2.0`.
    """
    folder = user_cache_path("distributed-pose-tests") / requirement.replace("==", "-")
    done = folder / ".complete"
    if not done.exists():
        with tempfile.TemporaryDirectory() as download:
            pip("download", "--no-deps", "--no-binary=:all:", "--dest", download, requirement)
            (archive,) = Path(download).iterdir()
            shutil.unpack_archive(archive, folder)
        done.touch()
    return folder


def unpacked_wheel(requirement: str) -> Path:
    """Returns the folder of a package, for PYTHONPATH.

    Its dependencies are those of the tests' environment. The test is skipped where
    the package index cannot be reached.

    Args:
        requirement: requirement with a version, such as `onnxruntime-gpu==1.31.1`.
    """
    folder = user_cache_path("distributed-pose-tests") / requirement.replace("==", "-")
    done = folder / ".complete"
    if not done.exists():
        options = ["--no-deps", "--upgrade", "--only-binary=:all:", "--target", str(folder)]
        pip("install", *options, requirement)
        done.touch()
    return folder


def pip(*arguments: str, python: Path = Path(sys.executable)) -> None:
    """Runs pip of a Python; skips the test if pip fails, for example without the index."""
    answer = subprocess.run(
        [python, "-m", "pip", "--quiet", *arguments],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if answer.returncode:
        said = answer.stderr.strip().rpartition("\n")[2]
        pytest.skip(f"pip {' '.join(arguments)}: {said}")
