"""Every target's constraints have a solution of binary wheels, on every Python and platform."""

import re
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vendor.targets import (
    PYTHONS,
    REPOSITORY,
    TARGETS,
    X86,
    NoAnswerError,
    Target,
    resolve,
)

# The first test waits for the answers to all cases.
pytestmark = [pytest.mark.vendor, pytest.mark.timeout(1200)]

CASES = [
    (target, python, platform)
    for target in TARGETS
    for python in target.pythons
    for platform in target.platforms
]

# The distributions that install the package `onnxruntime`.
RUNTIMES = {"onnxruntime", "onnxruntime-gpu", "onnxruntime-cann"}


# Resolving mostly waits for the index, so that threads shorten it.
THREADS = 8

Answers = dict[tuple[Target, str, str], dict[str, str]]


def resolved(target: Target, python: str, platform: str) -> dict[str, str]:
    lines = resolve(
        (target.name,),
        python=python,
        platform=platform,
        constraints=REPOSITORY / target.constraints,
        beside=target.beside,
    ).splitlines()
    return dict(line.partition(" ;")[0].split("==") for line in lines)


@pytest.fixture(scope="module")
def answers() -> Answers:
    """Versions by target, Python and platform."""
    with ThreadPoolExecutor(THREADS) as pool:
        pending = {case: pool.submit(resolved, *case) for case in CASES}
    try:
        return {case: answer.result() for case, answer in pending.items()}
    except NoAnswerError as error:
        pytest.skip(f"the package index does not answer: {error}")


@pytest.fixture(scope="module")
def usual(answers: Answers) -> dict[str, dict[str, str]]:
    """Versions by target, for the oldest Python on the first platform."""
    return {t.name: answers[t, PYTHONS[0], t.platforms[0]] for t in TARGETS}


@pytest.mark.parametrize(
    ("target", "python", "platform"), CASES, ids=lambda v: v.name if isinstance(v, Target) else v
)
def test_a_targets_constraints_resolve_to_wheels(
    answers: Answers, target: Target, python: str, platform: str
) -> None:
    constraints = REPOSITORY / target.constraints
    found = answers[target, python, platform]
    pinned = dict(re.findall(r"^([^#=\s]+)==(\S+)", constraints.read_text(), re.MULTILINE))
    assert {"ray", "numba", "onnx"} < found.keys()
    assert len(RUNTIMES & found.keys()) <= 1
    # Packages that only other Pythons or platforms need are not compared.
    assert {name: found[name] for name in found if name in pinned} == {
        name: version for name, version in pinned.items() if name in found
    }


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("cpu", {"openvino", "onnxruntime"}, {"torch", "nncf", "matplotlib", "grpcio"}),
        ("gpu", {"onnxruntime-gpu", "nvidia-cudnn-cu13"}, {"torch", "openvino"}),
        ("tensorrt", {"onnxruntime-gpu", "tensorrt-cu13-bindings"}, {"torch", "openvino"}),
        ("cann", {"onnxruntime-cann"}, {"torch", "openvino"}),
        ("ascend", {"numpy"}, {"torch", "openvino", *RUNTIMES}),
    ],
)
def test_a_target_has_only_its_own_runtime(
    usual: dict[str, dict[str, str]], name: str, present: set[str], absent: set[str]
) -> None:
    assert present <= usual[name].keys()
    assert not absent & usual[name].keys()


@pytest.mark.parametrize("name", ["cann", "ascend"])
def test_numpy_1_and_its_opencv_are_for_cann(usual: dict[str, dict[str, str]], name: str) -> None:
    assert usual[name]["numpy"].startswith("1.26.")
    assert usual[name]["opencv-python-headless"].startswith("4.11.")


@pytest.mark.parametrize(
    ("pins", "extra", "python", "reason"),
    [
        ("numpy<1.20", "cpu", "3.11", "numpy"),
        # The documentation states this for NPU hosts with a newer Python.
        ("", "cann", "3.13", "numpy"),
    ],
)
def test_requirements_without_a_solution_are_an_error_with_the_reason(
    tmp_path: Path, pins: str, extra: str, python: str, reason: str
) -> None:
    (tmp_path / "c.txt").write_text(f"{pins}\n")
    with pytest.raises(ValueError, match=reason):
        resolve((extra,), python=python, platform=X86, constraints=tmp_path / "c.txt")


def test_every_extra_is_a_target() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() == {target.name for target in TARGETS}
    assert not RUNTIMES & {re.split(r"[\[><=]", line)[0] for line in project["dependencies"]}
