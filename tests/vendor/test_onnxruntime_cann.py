"""What we tell ONNX Runtime's CANN provider, read by its own parser.

The provider of the vendor's wheel is loaded with stand-ins for CANN's libraries. It wants NumPy 1,
and so an environment of its own.
"""

import json
import os
import re
import subprocess
import venv
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from platformdirs import user_cache_path

from distributed_pose.backends.providers import PROVIDERS, cann_options
from tests.fakes.libraries import build_library
from tests.tiny_models import save_constant_model
from tests.vendor.wheels import pip

pytestmark = pytest.mark.vendor

REQUIREMENTS = ("onnxruntime-cann==1.24.4", "numpy<2")

# The libraries that the provider is linked with; one of them has all functions.
LIBRARIES = ("libascendcl.so", "libacl_op_compiler.so", "libfmk_onnx_parser.so")
_ASCEND = re.compile(r"acl|_ZNK?2ge")

_SOURCE = """
int aclrtGetDeviceCount(unsigned *count) { *count = 1; return 0; }
int aclrtGetDevice(int *device) { *device = 0; return 0; }
const char *aclrtGetSocName(void) { return "Ascend310P3"; }
const char *aclGetRecentErrMsg(void) { return "a stand-in"; }
int aclrtCreateStream(void **stream) { *stream = (void *)1; return 0; }
"""

TOLD = {name: cann_options(0, half=name == "f16") for name in ("f16", "f32")}

# Values that the provider reads; the mode of precision is passed on to CANN as it is.
WRONG_VALUES = {"device_id": "first", "enable_cann_graph": "maybe", "dump_om_model": "2"}

# Creates a session, and prints the provider's options as it has read them, or its error.
_SCRIPT = """
import json, sys, onnxruntime
model, provider, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
onnxruntime.set_default_logger_severity(4)
try:
    session = onnxruntime.InferenceSession(
        model, providers=[(provider, options)], enable_fallback=0)
    print(json.dumps(session.get_provider_options()[provider]))
except Exception as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of an environment with the vendor's wheel."""
    folder = user_cache_path("distributed-pose-tests") / REQUIREMENTS[0].replace("==", "-")
    found = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip("install", *REQUIREMENTS, python=found)
        (folder / ".complete").touch()
    return found


@pytest.fixture(scope="module")
def libraries(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-ins."""
    folder = tmp_path_factory.mktemp("cann")
    (provider,) = python.parent.parent.rglob("libonnxruntime_providers_cann.so")
    with provider.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        names = {s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and _ASCEND.match(s.name)}
    assert len(names) == 67
    missing = sorted(name for name in names if f"{name}(" not in _SOURCE)
    build_library(folder / LIBRARIES[0], source=_SOURCE, symbols=missing)
    for name in LIBRARIES[1:]:
        build_library(folder / name)
    return folder


def answer(python: Path, libraries: Path, model: Path, options: dict[str, str]) -> str:
    """Returns what a session with these options says."""
    arguments = [str(model), PROVIDERS["cann"].name, json.dumps(options)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    environment.pop("PYTHONPATH", None)
    run = subprocess.run(
        [python, "-c", _SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return run.stdout.strip().rpartition("\n")[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_constant_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.mark.parametrize("name", TOLD)
def test_every_option_is_read_as_it_was_meant(
    name: str, python: Path, libraries: Path, model: Path
) -> None:
    read = json.loads(answer(python, libraries, model, TOLD[name]))
    assert {key: read[key] for key in TOLD[name]} == TOLD[name]


@pytest.mark.parametrize("key", TOLD["f16"])
def test_a_misspelt_option_is_refused(key: str, python: Path, libraries: Path, model: Path) -> None:
    options = {k if k != key else f"{k}s": value for k, value in TOLD["f16"].items()}
    told = answer(python, libraries, model, options)
    assert told.startswith("refused:")


@pytest.mark.parametrize("key", WRONG_VALUES)
def test_a_wrong_value_is_refused(key: str, python: Path, libraries: Path, model: Path) -> None:
    told = answer(python, libraries, model, {**TOLD["f16"], key: WRONG_VALUES[key]})
    assert told.startswith("refused:")
