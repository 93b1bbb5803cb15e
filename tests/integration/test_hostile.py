"""The hostile files and command lines of `tests/hostile` end in one line, within limits."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def campaign(*options: str) -> None:
    """Runs cases, and fails with their problems."""
    command = [sys.executable, "-m", "tests.hostile", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all |" in done.stdout


@pytest.mark.parametrize("kind", ["text", "option"])
def test_hostile_texts_and_command_lines_end_in_one_line(kind: str) -> None:
    campaign("--seed", "1", "--cases", "150", "--only", kind)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_hostile_files_end_in_one_line_within_memory_and_time() -> None:
    campaign("--seed", "2", "--cases", "100")
