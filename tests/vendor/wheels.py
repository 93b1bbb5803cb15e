"""Vendors' wheels, unpacked beside each other in a folder of the cache."""

import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import user_cache_path

_TIMEOUT_S = 900


def unpacked_wheel(requirement: str) -> Path:
    """Returns the folder of a package, which goes in front of others by PYTHONPATH.

    Its dependencies are not there: the environment of the tests has them. The test is skipped where
    the package index cannot be reached.

    Args:
        requirement: with a version, such as `onnxruntime-gpu==1.31.1`.
    """
    folder = user_cache_path("distributed-pose-tests") / requirement.replace("==", "-")
    done = folder / ".complete"
    if not done.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        command += ["--only-binary=:all:", "--target", str(folder), requirement]
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        if answer.returncode:
            said = answer.stderr.strip().rpartition("\n")[2]
            pytest.skip(f"pip cannot get {requirement}: {said}")
        done.touch()
    return folder
