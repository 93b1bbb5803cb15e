"""Finds which requirements of a backend a machine lacks, without loading a vendor's SDK.

Modules are looked up in the file system, and called names in their source. If only loading can
answer, a short-lived process (`probe`) loads the module or library, once per process that asks.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache, singledispatch
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.specifiers import SpecifierSet

from distributed_pose.backends.needs import (
    SET_ENV,
    AscendCompiler,
    CannProvider,
    CudaBuild,
    Library,
    Module,
    Need,
    NvidiaProvider,
    PyAcl,
    Variable,
    Version,
)
from distributed_pose.devices.cann import find_cann
from distributed_pose.devices.cann_lacks import compiler_lacks, runtime_lacks
from distributed_pose.devices.lacks import Lack

_PROBE = Path(__file__).with_name("probe.py")
_PROBE_TIMEOUT_S = 120.0

_CUDA_DRIVER = "libcuda.so.1"

# These distributions install the same files, so that at most one of them works.
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")

# The runtime is called through this module, which loads libraries of CANN and of the driver.
_ACL = Module(
    "acl",
    f"source {SET_ENV} before starting, and before `ray start` on each node",
    "mdl",
    is_loaded=True,
)

_CHIP_NAME = Lack(
    "the name of the chip",
    "",
    "set npu.soc=310P3 (check `npu-smi info`), or start the node with "
    "`ray start --labels soc=310P3`",
)

# The loader's message about a missing library that another library needs.
_NOT_FOUND = re.compile(r"(\S+\.so[\w.]*): cannot open shared object file")


def lacks(needs: Iterable[Need]) -> tuple[Lack, ...]:
    """Returns the requirements that this machine lacks, without duplicates, in order.

    Answers of other processes are cached for the life of this process.
    """
    found: dict[str, Lack] = {}
    for need in needs:
        for lack in _lacks_of(need):
            found.setdefault(lack.what, lack._replace(remedy=_with_script(lack.remedy)))
    return tuple(found.values())


def _with_script(remedy: str) -> str:
    if SET_ENV not in remedy:
        return remedy
    cann = _cann()
    script = str(cann.script) if cann and cann.script else "CANN's set_env.sh"
    return remedy.replace(SET_ENV, script)


# Cached, because the lookup runs CANN's script in a shell.
_cann = cache(find_cann)


@singledispatch
def _lacks_of(need: object) -> Iterable[Lack]:
    raise TypeError(type(need).__name__)


@_lacks_of.register
def _(need: Module) -> Iterable[Lack]:
    spec = _find(need.name)
    called = f"{need.name}.{need.attribute}" if need.attribute else need.name
    # A module without a file is a folder that another distribution has left behind.
    if spec is None or spec.origin is None:
        yield Lack(called, _owner(need), need.remedy)
    elif need.is_loaded:
        error, _ = _asked("import", f"{need.name}:{need.attribute}")
        if error:
            yield _load_lack(called, error, need.remedy)
    elif need.attribute and not _defines(spec, need.attribute):
        yield Lack(called, spec.origin, need.remedy)


@_lacks_of.register
def _(need: Version) -> Iterable[Lack]:
    found = _version(need.distribution)
    if not SpecifierSet(need.allowed).contains(found or "0", prereleases=True):
        wanted = f"{need.distribution}{need.allowed}"
        yield Lack(wanted, f"{need.distribution} {found}" if found else "", need.remedy)


@_lacks_of.register
def _(need: Library) -> Iterable[Lack]:
    error, _ = _asked("load", need.name)
    if error:
        yield _load_lack(need.name, error, need.remedy)


@_lacks_of.register
def _(need: Variable) -> Iterable[Lack]:
    value = os.environ.get(need.name, "")
    if not (value and Path(value).is_dir()):
        yield Lack(f"variable {need.name}", value, need.remedy)


@_lacks_of.register
def _(need: NvidiaProvider) -> Iterable[Lack]:
    # The import is here, because hosts without cards do not need the reader of libraries.
    from distributed_pose.backends.shared_libraries import probe_provider

    return probe_provider(need.variant)


@_lacks_of.register
def _(need: CannProvider) -> Iterable[Lack]:
    spec = _find("onnxruntime")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    if not (folder / "capi" / "libonnxruntime_providers_cann.so").is_file():
        others = (f"{name} {_version(name)}" for name in _ONNXRUNTIMES if _version(name))
        yield Lack("onnxruntime-cann", ", ".join(others), need.remedy)


@_lacks_of.register
def _(_: PyAcl) -> Iterable[Lack]:
    if missing := runtime_lacks(_cann()):
        return missing
    return _lacks_of(_ACL)


@_lacks_of.register
def _(need: AscendCompiler) -> Iterable[Lack]:
    if need.soc == "":
        yield _CHIP_NAME
    yield from compiler_lacks(_cann(), need.soc or "")


@_lacks_of.register
def _(need: CudaBuild) -> Iterable[Lack]:
    spec = _find("torch.version")
    if spec is None or not spec.origin:
        return
    built_with = _literal(Path(spec.origin), "cuda")
    if not built_with:
        yield Lack("PyTorch built with CUDA", f"torch {_version('torch')}", need.remedy)
        return
    error, driver = _asked("driver", _CUDA_DRIVER)
    # A missing driver is reported by a separate need.
    if not error and _major(driver) < _major(str(built_with)):
        what = f"driver for CUDA {_major(str(built_with))}"
        yield Lack(what, f"one for CUDA {driver}", "update NVIDIA's driver")


def _load_lack(what: str, error: str, remedy: str) -> Lack:
    """Returns the lack that a loader's message reports, by the library that it names."""
    match = _NOT_FOUND.search(error)
    if match:
        return Lack(Path(match[1]).name, "" if match[1] in what else f"{what} needs it", remedy)
    return Lack(what, error, remedy)


@cache
def _asked(question: str, target: str) -> tuple[str, str]:
    """Returns the error of a probe, empty if it had none, and its answer."""
    task = json.dumps([question, target, sys.path])
    # -P keeps the script's folder off the path, because its modules have the names of SDKs.
    command = [sys.executable, "-P", str(_PROBE), task]
    try:
        answer = subprocess.run(  # noqa: S603 - a question of ours, through no shell
            command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
        error, found = json.loads(answer.stdout)
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_TIMEOUT_S:.0f} s", ""
    except (OSError, ValueError):
        return "it ends the process that loads it", ""
    return str(error), str(found)


def _find(name: str) -> ModuleSpec | None:
    """Returns the spec of a module without importing the packages that it is in.

    Modules that are already imported are looked up again: a process that starts later finds the
    modules that are installed now.
    """
    # Python marks a package that must not be imported with None.
    if sys.modules.get(name.partition(".")[0], ...) is None:
        return None
    spec, folders = None, None
    for part in name.split("."):
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        # A plain module has no folders, so that nothing is found below it.
        folders = [*(spec.submodule_search_locations or ())]
    return spec


def _owner(need: Module) -> str:
    """Returns a description of the owner of a missing module's top-level name; empty if none."""
    top = need.name.partition(".")[0]
    owners = [f"{name} {found}" for name in need.rivals if (found := _version(name))]
    if _find(top) is None:
        return ""
    return f"the {top} of {', '.join(owners)}" if owners else f"another {top}"


def _defines(spec: ModuleSpec, attribute: str) -> bool:
    """Returns whether the source of a module binds a name; True for a module without source."""
    if not (spec.origin or "").endswith(".py"):
        return True
    tree = ast.parse(Path(str(spec.origin)).read_bytes())
    return any(attribute.partition(".")[0] in _bound(node) for node in ast.walk(tree))


def _bound(node: ast.AST) -> Iterable[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            return (node.name,)
        case ast.Import() | ast.ImportFrom():
            return tuple(alias.asname or alias.name for alias in node.names)
        case ast.Name(ctx=ast.Store()):
            return (node.id,)
    return ()


def _literal(file: Path, name: str) -> object:
    """Returns the literal that a source file assigns to a name; None if there is none."""
    for node in ast.parse(file.read_bytes()).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        value = getattr(node, "value", None)
        if name in names and isinstance(value, ast.Constant):
            return value.value
    return None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _major(text: str) -> int:
    return int(text.partition(".")[0])
