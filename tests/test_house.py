"""The code passes the linters, the type checker and the rules for imports."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent

CHECKS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "imports": ["lint-imports"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_code_keeps_the_rules(check: str) -> None:
    tool, *arguments = CHECKS[check]
    answer = subprocess.run(
        [SCRIPTS / tool, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    commands = [
        line
        for line in (REPOSITORY / ".ci" / "run").read_text().splitlines()
        if ".venv/bin/" in line and not line.startswith("#")
    ]
    assert commands
    for command in commands:
        assert command in readme
