"""ATC, Ascend's compiler: ONNX to `.om`, for one chip and fixed shapes.

Source: the ATC reference of CANN 5.1 to 9.0, and the commands of the vendor's guide.
"""

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.soc import precision_on, soc_version

AIPP_FILE = "aipp.cfg"

_ONNX = 5
_MODEL_FILE = "model.onnx"
_MOST_BATCH_SIZES = 100

# The compiler takes no --version. Its folder has these, the product's version before those of
# its parts.
_VERSION_FILES = (
    "*-linux/ascend_toolkit_install.info",
    "version.cfg",
    "version.info",
    "toolkit/version.info",
    "compiler/version.info",
)
# `version=8.0.0`, `Version=8.0.RC1` or `runtime_running_version=[7.6.0.1.220:8.0.0]`.
_VERSION = re.compile(
    r"^(?:\w+_)?version\s*=\s*\[?(?:[^:\]\s]+:)?([^\]\s]+)", re.IGNORECASE | re.MULTILINE
)

_ERROR_LINE = re.compile(r"\[?ERROR\]?|^E\d{5}|^E[A-Z]\d{4}")
_SHOWN_LINES = 3


@dataclass(frozen=True)
class AtcOrder:
    """What is to be compiled.

    Attributes:
        soc: name of the chip, such as `310P3`.
        batch_sizes: one for a static model, several for one with a dynamic batch.
        dynamic_batch: whether the model takes several batch sizes.
        precision: `auto`, `f16` or `f32`.
        input_name: of the model's image input.
        height: of that input, pixels.
        width: of that input, pixels.
        aipp: whether the model takes bytes, [N, H, W, 3], and the chip normalises them.

    Raises:
        ConfigError: if the chip or the batch sizes cannot be compiled for.
        SetupError: if the chip lacks the precision.
    """

    soc: str
    batch_sizes: tuple[int, ...] = (1,)
    dynamic_batch: bool = False
    precision: str = "auto"
    input_name: str = "data"
    height: int = 368
    width: int = 640
    aipp: bool = False

    def __post_init__(self) -> None:
        precision_on(self.soc_version, self.precision)
        sizes = self.batch_sizes
        if min(sizes, default=0) < 1 or sorted(set(sizes)) != list(sizes):
            raise ConfigError(
                f"batch sizes {list(sizes)} are not positive and ascending", "such as 1,2,4,8"
            )
        if not self.dynamic_batch and len(sizes) > 1:
            raise ConfigError("a static .om has one batch size", "compile one for each")
        if self.dynamic_batch and not 2 <= len(sizes) <= _MOST_BATCH_SIZES:
            raise ConfigError(
                f"an .om with a dynamic batch has 2 to {_MOST_BATCH_SIZES} sizes, not {len(sizes)}",
                "a static .om has one",
            )

    @property
    def soc_version(self) -> str:
        """The chip as the compiler names it, such as `Ascend310P3`."""
        return soc_version(self.soc)

    @property
    def output_name(self) -> str:
        """What the guide calls the result, without its ending: `model_bs1`."""
        return "model_bs" + "_".join(map(str, self.batch_sizes))


@dataclass(frozen=True)
class AtcRun:
    """What was run to compile a model.

    Attributes:
        command: for a shell in a folder that has the model and, where named, the AIPP file.
        seconds: that it took.
        toolchain: version of CANN; empty if unknown.
    """

    command: str
    seconds: float
    toolchain: str


def atc_command(order: AtcOrder, model: Path, output: Path, aipp: Path | None) -> list[str]:
    """Returns the compiler's arguments, itself first; `shlex.join` makes a shell's command of them.

    Args:
        order: what is to be compiled.
        model: ONNX with a float32 input.
        output: the compiler adds `.om`.
        aipp: file with `aipp_text`, for an order with AIPP.
    """
    batch = -1 if order.dynamic_batch else order.batch_sizes[0]
    shape = f"{batch},3,{order.height},{order.width}"
    command = [
        "atc",
        f"--framework={_ONNX}",
        f"--model={model}",
        f"--output={output}",
        "--input_format=NCHW",
        f"--input_shape={order.input_name}:{shape}",
        "--log=error",
        f"--soc_version={order.soc_version}",
    ]
    if order.dynamic_batch:
        command.append(f"--dynamic_batch_size={','.join(map(str, order.batch_sizes))}")
    if aipp:
        command.append(f"--insert_op_conf={aipp}")
    # Half precision is the compiler's default and has no option, as in the guide.
    if order.precision == "f32":
        command.append("--precision_mode=must_keep_origin_dtype")
    return command


def aipp_text(height: int = 368, width: int = 640) -> str:
    """Returns the configuration of AIPP, which normalises bytes on the chip: `(x - 128) / 256`.

    The three channels are passed on in the order in which they come; the name of the format is
    that of their memory layout, [N, H, W, 3].
    """
    settings = {
        "aipp_mode": "static",
        "related_input_rank": 0,
        "input_format": "RGB888_U8",
        "src_image_size_w": width,
        "src_image_size_h": height,
        "crop": "false",
        "csc_switch": "false",
        "rbuv_swap_switch": "false",
        **{f"mean_chn_{channel}": 128 for channel in range(3)},
        **{f"min_chn_{channel}": 0.0 for channel in range(3)},
        **{f"var_reci_chn_{channel}": 0.00390625 for channel in range(3)},
    }
    lines = "".join(f"    {key}: {value}\n" for key, value in settings.items())
    return f"aipp_op {{\n{lines}}}\n"


def run_atc(order: AtcOrder, onnx: bytes) -> tuple[bytes, AtcRun]:
    """Returns the compiled model and how it was made.

    Args:
        order: what is to be compiled.
        onnx: serialised, with a float32 input, also for an order with AIPP.

    Raises:
        SetupError: if the compiler is not there, fails or writes nothing.
    """
    with tempfile.TemporaryDirectory(prefix="atc-") as name:
        folder = Path(name)
        (folder / _MODEL_FILE).write_bytes(onnx)
        if order.aipp:
            (folder / AIPP_FILE).write_text(aipp_text(order.height, order.width))
        aipp = Path(AIPP_FILE) if order.aipp else None
        command = atc_command(order, Path(_MODEL_FILE), Path(order.output_name), aipp)
        start = perf_counter()
        _run(command, folder)
        seconds = perf_counter() - start
        content = _result(folder, command)
    return content, AtcRun(shlex.join(command), seconds, toolchain_version())


def toolchain_version() -> str:
    """Returns the version of CANN that the environment names, such as `8.0.0`; `` if unknown."""
    for file in _version_files():
        try:
            match = _VERSION.search(file.read_text(errors="replace"))
        except OSError:
            continue
        if match:
            return match[1]
    return ""


def _version_files() -> Iterator[Path]:
    for variable in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        if root := os.environ.get(variable):
            for pattern in _VERSION_FILES:
                yield from sorted(Path(root).glob(pattern))


def _run(command: list[str], folder: Path) -> None:
    try:
        answer = subprocess.run(  # noqa: S603 - a list of arguments, through no shell
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise SetupError(
            f"atc, the Ascend compiler, cannot be run: {error.strerror}",
            "source CANN's set_env.sh, or print the command for another machine by --dry-run",
        ) from None
    if answer.returncode:
        raise SetupError(
            f"atc failed with exit code {answer.returncode}: "
            f"{_last_errors(answer.stdout + answer.stderr)}",
            f"the command was {shlex.join(command)}",
        )


def _last_errors(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.search(line)] or lines
    return " | ".join(errors[-_SHOWN_LINES:]) or "it printed nothing"


def _result(folder: Path, command: list[str]) -> bytes:
    # Some versions put the host's system and architecture behind the name.
    files = sorted(folder.glob("*.om"))
    if len(files) != 1:
        raise SetupError(
            f"atc said that it succeeded and wrote {len(files)} .om files",
            f"the command was {shlex.join(command)}",
        )
    return files[0].read_bytes()
