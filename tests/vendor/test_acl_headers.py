"""Calls of pyACL, its constants and its error codes, against the C headers that torch_npu ships.

pyACL maps C's functions one to one: what C returns through a pointer, it returns beside the code.
The stand-in for it polices what this program calls it with, so that it is the stand-in that must
agree with the headers.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.fakes.ascend import stand_ins
from tests.unit.backends.test_ascend import KINDS, batch, compiled, opened
from tests.vendor.wheels import unpacked_wheel

pytestmark = pytest.mark.vendor

WHEEL = "torch-npu==2.14.0"

# Names of pyACL that differ from those of C, and results that do not follow the rule.
RENAMED = {"get_soc_name": "aclrtGetSocName", "rt.set_context": "aclrtSetCurrentContext"}
ANSWERS = {"mdl.add_dataset_buffer": "value"}

# Handles that are passed by pointer; other non-const pointers are results.
HANDLES = ("aclmdlDesc", "aclmdlDataset", "aclDataBuffer", "void")

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_FUNCTION = re.compile(r"ACL_FUNC_VISIBILITY\s+([\w\s*]+?)\s*(\*?)\s*(\w+)\(([^)]*)\);")
_NUMBER = re.compile(r"\b(ACL_[A-Z0-9_]+)\s*(?:=|\s)\s*(\d+)U?\b")


@dataclass(frozen=True)
class Function:
    """A function of C: its number of input parameters, and its kind of result."""

    takes: int
    answers: str


@pytest.fixture(scope="module")
def headers() -> str:
    folder = unpacked_wheel(WHEEL) / "torch_npu" / "include" / "acl"
    texts = [path.read_text(errors="replace") for path in sorted(folder.rglob("*.h"))]
    return _COMMENT.sub("", "\n".join(texts))


@pytest.fixture(scope="module")
def functions(headers: str) -> Mapping[str, Function]:
    return {
        name: Function(*_read(f"{kind}{star}", parameters))
        for kind, star, name, parameters in _FUNCTION.findall(headers)
    }


def _read(returned: str, text: str) -> tuple[int, str]:
    parameters = [" ".join(one.split()) for one in text.split(",") if one.strip()]
    given = [one for one in parameters if not _is_answer(one)]
    if returned.strip() != "aclError":
        return len(given), "plain"
    return len(given), "code" if len(given) == len(parameters) else "value"


def _is_answer(parameter: str) -> bool:
    base = parameter.split("*", maxsplit=1)[0].strip()
    is_handle = base in HANDLES and parameter.count("*") == 1
    return "*" in parameter and "const" not in parameter and not is_handle


def c_name(call: str) -> str:
    """Returns the C name of a pyACL function, such as `aclrtMemcpyAsync` of `rt.memcpy_async`."""
    room, _, name = call.rpartition(".")
    return RENAMED.get(call) or f"acl{room}{''.join(map(str.capitalize, name.split('_')))}"


@pytest.fixture(scope="module")
def calls() -> Iterator[set[str]]:
    """The functions of pyACL that runs of all kinds of models call, including failed runs."""
    with stand_ins():
        fake = importlib.import_module("acl.fake")
        for kind in KINDS:
            backend = opened(compiled(kind))
            backend.infer(batch(5, kind))
            backend.submit(batch(1, kind))
            backend.close()
        yield set(fake.calls) | {"get_recent_err_msg", "finalize"}


def test_every_call_has_the_parameters_and_results_of_a_function_in_the_headers(
    functions: Mapping[str, Function], calls: set[str]
) -> None:
    acl = importlib.import_module("acl")
    assert len(calls) > 35
    for call in sorted(calls):
        room, _, name = call.rpartition(".")
        found = getattr(getattr(acl, room) if room else acl, name)
        wanted = functions[c_name(call)]
        answers = ANSWERS.get(call, wanted.answers)
        declared = Function(
            len(inspect.signature(found).parameters), getattr(found, "answers", "plain")
        )
        assert declared == Function(wanted.takes, answers), call


@pytest.mark.parametrize("call", ["rt.memcpy_asynch", "mdl.load_from_memory", "rt.elapsed_time"])
def test_a_misspelt_call_is_not_in_the_headers(
    functions: Mapping[str, Function], call: str
) -> None:
    assert c_name(call) not in functions


def test_constants_have_the_values_of_the_headers(headers: str) -> None:
    with stand_ins():
        acl_calls = importlib.import_module("distributed_pose.backends.acl_calls")
        ascend = importlib.import_module("distributed_pose.backends.ascend")
        model = importlib.import_module("distributed_pose.backends.ascend_model")
        fake_types = importlib.import_module("acl.mdl").TYPES
    types = dict(re.findall(r"\bACL_(FLOAT16|FLOAT|INT8|INT32|UINT8|INT64)\s*=\s*(\d+)", headers))
    names = {"FLOAT": "float32"}
    by_code = {int(code): names.get(name, name.lower()) for name, code in types.items()}
    assert by_code == model._DTYPES
    assert fake_types == {name: code for code, name in by_code.items() if name in fake_types}
    for name, value in {
        "ACL_MEMCPY_HOST_TO_DEVICE": ascend._HOST_TO_DEVICE,
        "ACL_MEMCPY_DEVICE_TO_HOST": ascend._DEVICE_TO_HOST,
        "ACL_MEM_MALLOC_HUGE_FIRST": model._HUGE_PAGES_FIRST,
    }.items():
        assert _position(headers, name) == value, name
    assert f'#define ACL_DYNAMIC_TENSOR_NAME "{model._DYNAMIC_BATCH_INPUT}"' in headers
    assert _codes(headers)["ACL_ERROR_REPEAT_INITIALIZE"] == acl_calls._REPEATED_INIT


def test_every_explained_code_is_in_the_headers(headers: str) -> None:
    with stand_ins():
        known = importlib.import_module("distributed_pose.backends.acl_calls")._CODES
        stated = importlib.import_module("acl.fake").INJECTED
    codes = set(_codes(headers).values())
    assert len(codes) > 200
    assert set(known) <= codes
    assert stated in codes


def _codes(headers: str) -> dict[str, int]:
    found = {name: int(value) for name, value in _NUMBER.findall(headers)}
    return {name: value for name, value in found.items() if value >= 100_000}


def _position(headers: str, name: str) -> int:
    """Returns the value of a member of an enumeration that starts at 0."""
    text = next(t for t in re.findall(r"typedef enum \w*\s*\{([^}]*)\}", headers) if name in t)
    members = [member.split("=")[0].strip() for member in text.split(",")]
    return members.index(name)
