"""Options of ATC and calls of ais_bench, against msit, the vendor's own tool around both."""

import ast
import importlib
import inspect
import re
import runpy
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distributed_pose.backends.providers import cann_options
from distributed_pose.model.atc import AtcSpec, atc_command
from tests.fakes.ascend import stand_ins
from tests.vendor.wheels import unpacked_sources

pytestmark = pytest.mark.vendor

SOURCES = "msit==8.2.0"

ORDERS = [
    AtcSpec(soc, (1, 4) if dynamic else (4,), dynamic, precision, aipp=aipp)
    for soc, precision in (("310P3", "auto"), ("910B4-1", "f32"), ("310B1", "f32"))
    for dynamic, aipp in product((False, True), repeat=2)
]


@pytest.fixture(scope="module")
def msit() -> Path:
    (folder,) = unpacked_sources(SOURCES).glob("msit-*")
    return folder / "components"


@pytest.fixture(scope="module")
def options(msit: Path) -> dict[str, str]:
    """The description of each option of ATC in msit, by its name with dashes."""
    table = runpy.run_path(str(msit / "convert" / "model_convert" / "atc" / "atc_args_map.py"))
    return {option["name"]: option["desc"] for option in table["atc_args"]}


@pytest.mark.parametrize("spec", ORDERS, ids=str)
def test_every_option_of_atc_is_in_the_vendors_list_with_an_allowed_value(
    spec: AtcSpec, options: dict[str, str]
) -> None:
    command = atc_command(spec, Path("M.onnx"), Path("M"))
    given = dict(argument.split("=", 1) for argument in command[1:])
    assert wrong(given, options) == []
    required = {"--model", "--framework", "--output", "--soc_version"}
    assert required <= set(given)


@pytest.mark.parametrize("half", [False, True])
def test_the_mode_that_onnx_runtime_passes_to_cann_is_one_of_atc(
    options: dict[str, str], *, half: bool
) -> None:
    given = {"--precision_mode": cann_options(0, half=half)["precision_mode"]}
    assert wrong(given, options) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--soc_verison", "Ascend310P3"),
        ("--allow_hf32", "false"),
        ("--precision_mode", "must_keep_origin_type"),
        ("--framework", "6"),
    ],
)
def test_a_misspelt_option_or_value_is_detected(
    option: str, value: str, options: dict[str, str]
) -> None:
    assert wrong({option: value}, options) == [option]


def wrong(given: dict[str, str], options: dict[str, str]) -> list[str]:
    """Returns the options that are not in the list, or have a value that it does not allow."""
    named = {"--precision_mode": r"\w+", "--framework": r"\d+(?=:)"}
    return [
        name
        for name, value in given.items()
        if name not in options
        or (name in named and value not in re.findall(named[name], options[name]))
    ]


@pytest.fixture
def ais_bench() -> Iterator[ModuleType]:
    with stand_ins():
        yield importlib.import_module("ais_bench.infer.interface")


@pytest.mark.parametrize("release", [2023, 2024])
def test_the_fake_accepts_a_session_as_msit_calls_it(
    msit: Path, ais_bench: Any, release: int
) -> None:
    ais_bench.release = release
    file = msit / "debug" / "surgeon" / "auto_optimizer" / "graph_optimizer" / "optimizer.py"
    sessions, methods = calls_of_sessions(file)
    assert {frozenset(one) for one in sessions} == {frozenset({"device_id", "model_path", "loop"})}
    constructor = inspect.signature(ais_bench.InferSession)
    assert all(set(keywords) <= set(constructor.parameters) for keywords in sessions)
    # Our call passes it by position.
    assert list(constructor.parameters)[:2] == ["device_id", "model_path"]
    assert methods == {"get_inputs", "infer", "sumary"}
    found = {name for name in methods if name in vars(ais_bench.InferSession)}
    assert found == methods
    infer = inspect.signature(ais_bench.InferSession.infer).parameters
    assert list(infer)[1:4] == ["feeds", "mode", "custom_sizes"]


def calls_of_sessions(file: Path) -> tuple[list[list[str]], set[str]]:
    """Returns the keywords of each new `InferSession`, and the methods that are called on it."""
    tree = ast.parse(file.read_text())
    sessions, names = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Name) and called.id == "InferSession":
                sessions.append([keyword.arg or "" for keyword in node.value.keywords])
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    methods = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in names
    }
    return sessions, methods
