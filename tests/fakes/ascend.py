"""Shared by the tests of the Ascend paths: a network, its `.om`, and fakes to be imported."""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent
HEIGHT, WIDTH = 32, 48

# A few of the chips that the compiler of CANN 8.0 supports.
CHIPS = ("Ascend310", "Ascend310B1", "Ascend310P3", "Ascend910A", "Ascend910B4", "Ascend910_9391")

# `fake_om` has no state of a test, and caches sessions, which are slow to create.
_TOP_LEVEL = ("acl", "ais_bench")
_OURS = ("acl_calls", "ascend", "ascend_ais", "ascend_model")

PLAIN = {"heatmaps": 19, "pafs": 38}
TWO_STAGES = {
    "stage_0_output_1_heatmaps": 19,
    "stage_0_output_0_pafs": 38,
    "stage_1_output_1_heatmaps": 19,
    "stage_1_output_0_pafs": 38,
}


@cache
def network(
    outputs: Sequence[str] = tuple(PLAIN),
    input_name: str = "data",
    scale: float = 1.0,
    opset: int = 11,
) -> bytes:
    """Returns ONNX of one strided layer for each output, with random weights.

    Args:
        outputs: names of the outputs, which determine their numbers of channels.
        input_name: name of the input.
        scale: scale of the weights.
        opset: version of the ONNX operator set.
    """
    generator = np.random.default_rng(0)
    # Weights are drawn for all outputs, so that an output does not depend on the others.
    made = {
        name: generator.standard_normal((channels, 3, 8, 8)).astype(np.float32) * (scale / 14)
        for name, channels in {**PLAIN, **TWO_STAGES}.items()
    }
    weights = [numpy_helper.from_array(made[name], f"{name}.weight") for name in outputs]
    nodes = [
        helper.make_node("Conv", [input_name, f"{name}.weight"], [name], strides=[8, 8])
        for name in outputs
    ]
    sizes = {input_name: 3} | {name: len(made[name]) for name in outputs}
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in sizes.items()
    ]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return bytes(model.SerializeToString())


def om(onnx: bytes, batches: tuple[int, ...] = (1,), **fields: Any) -> bytes:
    """Returns an `.om` of the fakes.

    Args:
        onnx: serialised ONNX.
        batches: batch sizes; one for a static batch, several for a dynamic one.
        fields: fields of `fake_om.Om`; `aipp=True` means the package's AIPP, and `options` are
            options of the compiler.
    """
    module = importlib.import_module("fake_om")
    aipp = module.Aipp(128.0, 0.00390625) if fields.pop("aipp", False) else None
    soc = fields.get("soc", "Ascend310P3")
    options = fields.pop("options", "")
    dynamic = f"--dynamic_batch_size={','.join(map(str, batches))}" if len(batches) > 1 else ""
    command = f"/usr/local/Ascend/bin/atc.bin --framework=5 --soc_version={soc} {dynamic} {options}"
    settings = {
        "soc": "Ascend310P3",
        "input_name": "data",
        "image": (3, HEIGHT, WIDTH),
        "output_dtype": "float32",
        "command": command,
        "half": "must_keep" not in options,
        **fields,
    }
    content: bytes = module.Om(**settings, batches=batches, aipp=aipp, onnx=onnx).save()
    return content


@contextmanager
def stand_ins() -> Iterator[None]:
    """Makes fresh fakes of `acl` and `ais_bench` importable, and unloads them afterwards."""
    _forget()
    sys.path.insert(0, str(FOLDER))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        importlib.invalidate_caches()
        _forget()


@dataclass(frozen=True)
class FakeCann:
    """An installation of CANN with a fake compiler.

    Attributes:
        root: folder in the place of `/usr/local/Ascend`.
        home: folder that `set_env.sh` names.
        python: folder of a `python3` that the compiler can run in.
        log: file with the arguments of each run of the compiler, one line per run.
    """

    root: Path
    home: Path
    python: Path
    log: Path

    @property
    def path(self) -> str:
        """The PATH of a host with the installation."""
        return os.pathsep.join((str(self.python), "/usr/bin", "/bin"))


def install_cann(
    root: Path,
    version: str = "8.0.0",
    chips: Sequence[str] = CHIPS,
    python: str = "10 1.24.4",
    compiler: str = "",
) -> FakeCann:
    """Returns an installation in the layout of the vendor's installer.

    Args:
        root: new folder.
        version: version of CANN; empty for files without it.
        chips: names of the chips that the compiler supports.
        python: minor version, version of NumPy, and missing modules of CANN's `python3`.
        compiler: shell lines in place of the compiler; empty for the fake compiler.
    """
    toolkit = root / "ascend-toolkit"
    home = toolkit / "latest"
    linux = home / "x86_64-linux"
    (linux / "data" / "platform_config").mkdir(parents=True)
    for chip in chips:
        (linux / "data" / "platform_config" / f"{chip}.ini").write_text("[version]\n")
    info = f"package_name=Ascend-cann-toolkit\nversion={version}\n" if version else "nothing\n"
    (linux / "ascend_toolkit_install.info").write_text(info)
    (toolkit / "set_env.sh").write_text(
        f"export ASCEND_TOOLKIT_HOME={home}\n"
        "export ASCEND_HOME_PATH=${ASCEND_TOOLKIT_HOME}\n"
        "export LD_LIBRARY_PATH=${ASCEND_TOOLKIT_HOME}/lib64:$LD_LIBRARY_PATH\n"
        "export PYTHONPATH=${ASCEND_TOOLKIT_HOME}/python/site-packages:$PYTHONPATH\n"
        "export PATH=${ASCEND_TOOLKIT_HOME}/bin:$PATH\n"
    )
    cann = FakeCann(root, home, root / "python", root / "atc.log")
    cann.log.touch()
    _executable(cann.python / "python3", f"echo {python}")
    _executable(home / "bin" / "atc", compiler or _COMPILER.format(cann=cann))
    return cann


# These variables make the real compiler fail in the Python of another program.
_COMPILER = f"""\
if [ "$PYTHONPATH" != "{{cann.home}}/python/site-packages:" ]; then
    echo "E40021: Failed to compile Op: No module named tbe in $PYTHONPATH"; exit 255; fi
if [ "$(command -v python3)" != "{{cann.python}}/python3" ]; then
    echo "E40021: Failed to compile Op: module numpy has no attribute float_"; exit 255; fi
echo "$@" >> {{cann.log}}
exec {sys.executable} {FOLDER}/atc "$@"
"""


def _executable(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def _forget() -> None:
    ours = {f"distributed_pose.backends.{name}" for name in _OURS}
    for name in list(sys.modules):
        if name.partition(".")[0] in _TOP_LEVEL or name in ours:
            del sys.modules[name]
