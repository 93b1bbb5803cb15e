"""Our CANN backend on ONNX Runtime's real provider, and its options read by the real parser.

The provider of the vendor's wheel is loaded with stand-ins for CANN's libraries, whose device is
the host's memory and whose models answer nothing but zeros. It wants NumPy 1, and so an environment
of its own.
"""

import json
import os
import re
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from platformdirs import user_cache_path

from distributed_pose.backends.providers import PROVIDERS, cann_options
from distributed_pose.model.onnx_graph import parse
from tests.fakes.ascend import network
from tests.fakes.libraries import build_library
from tests.tiny_models import save_constant_model
from tests.vendor.wheels import pip

pytestmark = pytest.mark.vendor

ROOT = Path(__file__).parents[2]

# Our backend imports the last of them.
_OURS = ("pydantic", "pyyaml", "platformdirs")
REQUIREMENTS = ("onnxruntime-cann==1.24.4", "numpy<2", "onnx<1.17", *_OURS)

# The provider is linked with these libraries; one of them has all functions.
LIBRARIES = ("libascendcl.so", "libacl_op_compiler.so", "libfmk_onnx_parser.so")
_ASCEND = re.compile(r"acl|_ZNK?2ge")

# A model of one input, whose outputs are PAFs and heatmaps of 8x8 cells for one image: the order in
# which the provider returns the outputs of its graph.
_SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { char name[128]; size_t count; long dims[128]; } Dims;
static int note(const char *what) { fprintf(stderr, "%s\\n", what); return 0; }
int aclrtGetDeviceCount(unsigned *count) { *count = 1; return 0; }
int aclrtGetDevice(int *device) { *device = 0; return 0; }
const char *aclrtGetSocName(void) { return getenv("STUB_SOC"); }
const char *aclGetRecentErrMsg(void) { return "a stand-in"; }
int aclrtCreateStream(void **stream) { *stream = (void *)1; return 0; }
int aclrtCreateEvent(void **event) { *event = (void *)1; return 0; }
int aclrtMalloc(void **p, size_t n, int policy) { *p = calloc(1, n); return 0; }
int aclrtMallocHost(void **p, size_t n) { *p = calloc(1, n); return 0; }
int aclrtFree(void *p) { free(p); return 0; }
int aclrtFreeHost(void *p) { free(p); return 0; }
int aclrtMemcpy(void *to, size_t room, const void *from, size_t n, int kind) {
    memcpy(to, from, n); return note(kind == 1 ? "copy in" : "copy out"); }
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t n, int kind, void *stream) {
    return aclrtMemcpy(to, room, from, n, kind); }
void *aclmdlCreateDesc(void) { return (void *)1; }
void *aclmdlCreateDataset(void) { return (void *)1; }
void *aclCreateDataBuffer(void *p, size_t n) { return (void *)1; }
size_t aclmdlGetNumInputs(void *model) { return 1; }
size_t aclmdlGetNumOutputs(void *model) { return 2; }
size_t aclmdlGetInputSizeByIndex(void *model, size_t i) { return 4 * 3 * 64 * 64; }
size_t aclmdlGetOutputSizeByIndex(void *model, size_t i) { return 4 * (i ? 19 : 38) * 64; }
int aclmdlGetOutputDims(void *model, size_t i, Dims *dims) {
    long found[] = {1, i ? 19 : 38, 8, 8};
    dims->count = 4; memcpy(dims->dims, found, sizeof found); return 0; }
int aclmdlExecuteAsync(unsigned model, void *in, void *out, void *stream) {
    return note("execute"); }
int aclrtSynchronizeStream(void *stream) { return note("wait"); }
void *_ZN2ge5GraphC1EPKc(void *self, char *name) { return memset(self, 0, 16); }
void *_ZN2ge12AscendStringC1EPKc(void *self, char *name) { return memset(self, 0, 16); }
"""

TOLD = {name: cann_options(0, half=name == "f16") for name in ("f16", "f32")}

# Values that the provider parses; the precision mode is passed to CANN unchanged.
WRONG_VALUES = {"device_id": "first", "enable_cann_graph": "maybe", "dump_om_model": "2"}

# Creates a session, and prints the provider's parsed options, or its error.
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


# Opens our backend on the model, and runs two images one after the other.
_BACKEND = """
import sys, numpy as np
from distributed_pose import SetupError
from distributed_pose.backends.base import BackendOptions, InputBatch, check_maps
from distributed_pose.backends.onnxruntime_cann import OnnxRuntimeCannBackend
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.records.images import Geometry
model, precision = open(sys.argv[1], "rb").read(), sys.argv[2]
try:
    backend = OnnxRuntimeCannBackend(model, BackendOptions(precision, variant="cann"))
except SetupError as error:
    print(error)
    raise SystemExit
images = np.ones((2, 3, 64, 64), np.float32)
batch = InputBatch((1, 2), (Geometry(64, 64, 0, 0, 0, 0),) * 2, images)
for _ in range(2):
    backend.submit(batch)
    answer = backend.collect()
    check_maps(answer.maps, batch, coco_body())
print(backend.precision, backend.description, min(answer.times) > 0)
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
    """The folder with the fake libraries."""
    folder = tmp_path_factory.mktemp("cann")
    (provider,) = python.parent.parent.rglob("libonnxruntime_providers_cann.so")
    with provider.open("rb") as file:
        symbols: Any = ELFFile(file).get_section_by_name(".dynsym")
        named = [s.name for s in symbols.iter_symbols() if s["st_shndx"] == "SHN_UNDEF"]
    names = {name for name in named if _ASCEND.match(name)}
    assert len(names) == 67
    missing = sorted(
        name for name in names if f" {name}(" not in _SOURCE and f"*{name}(" not in _SOURCE
    )
    build_library(folder / LIBRARIES[0], source=_SOURCE, symbols=missing)
    for name in LIBRARIES[1:]:
        build_library(folder / name)
    return folder


def answer(python: Path, libraries: Path, model: Path, options: dict[str, str]) -> str:
    """Returns the output of the creation of a session with these options."""
    arguments = (str(model), PROVIDERS["cann"].name, json.dumps(options))
    return run(python, libraries, _SCRIPT, *arguments).stdout.strip().rpartition("\n")[2]


def run(
    python: Path, libraries: Path, script: str, *arguments: str, soc: str = "Ascend310P3"
) -> subprocess.CompletedProcess[str]:
    """Returns the output of a script in the vendor's environment, on a chip."""
    variables = {"LD_LIBRARY_PATH": str(libraries), "STUB_SOC": soc, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [python, "-c", script, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one image of 64x64 at a time."""
    file = tmp_path_factory.mktemp("model") / "small.onnx"
    content = parse(network())
    for port, shape in zip(
        (content.graph.input[0], *content.graph.output),
        ((1, 3, 64, 64), (1, 19, 8, 8), (1, 38, 8, 8)),
        strict=True,
    ):
        for dim, size in zip(port.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    file.write_bytes(content.SerializeToString())
    return file


def test_our_backend_runs_a_model_and_times_its_execution_alone(
    python: Path, libraries: Path, small_model: Path
) -> None:
    ran = run(python, libraries, _BACKEND, str(small_model), "f16")
    assert ran.stdout.split() == ["f16", "Ascend310P3", "True"]
    order = [line for line in ran.stderr.splitlines() if line in {"copy in", "execute", "copy out"}]
    # Two images in each of two batches, heatmaps and PAFs of each.
    assert order == ["copy in", "execute", "copy out", "copy out"] * 4
    # The provider waits for the execution before the time of the run is taken.
    after = ran.stderr.splitlines()
    assert "wait" in after[after.index("execute") : after.index("copy out")]


@pytest.mark.parametrize(
    ("soc", "output"),
    [
        ("Ascend310B1", "f32 Ascend310B1 True"),
        ("Ascend910B4-1", "the compiled model has precision hf32, not f32"),
    ],
)
def test_float32_is_refused_if_the_provider_would_compute_it_in_hf32(
    python: Path, libraries: Path, small_model: Path, soc: str, output: str
) -> None:
    assert output in run(python, libraries, _BACKEND, str(small_model), "f32", soc=soc).stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_constant_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.mark.parametrize("name", TOLD)
def test_every_option_is_parsed_with_its_value(
    name: str, python: Path, libraries: Path, model: Path
) -> None:
    read = json.loads(answer(python, libraries, model, TOLD[name]))
    assert {key: read[key] for key in TOLD[name]} == TOLD[name]


@pytest.mark.parametrize("key", TOLD["f16"])
def test_a_misspelt_option_is_refused(key: str, python: Path, libraries: Path, model: Path) -> None:
    options = {k if k != key else f"{k}s": value for k, value in TOLD["f16"].items()}
    output = answer(python, libraries, model, options)
    assert output.startswith("refused:")


@pytest.mark.parametrize("key", WRONG_VALUES)
def test_a_wrong_value_is_refused(key: str, python: Path, libraries: Path, model: Path) -> None:
    output = answer(python, libraries, model, {**TOLD["f16"], key: WRONG_VALUES[key]})
    assert output.startswith("refused:")
