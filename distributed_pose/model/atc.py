"""Runs ATC, Ascend's compiler, which makes an `.om` for one chip and fixed shapes from ONNX.

Source: the ATC reference of CANN 5.1 to 9.0, and the commands of the vendor's guide.
"""

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from distributed_pose.devices.ascend import check_precision_on, has_hf32, soc_version
from distributed_pose.devices.cann import find_cann
from distributed_pose.devices.cann_lacks import compiler_environment, compiler_lacks, first_version
from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.records.images import BYTE_RANGE, MEAN_BYTE

AIPP_FILE = "aipp.cfg"

# The name of this file in a compiled model's command line shows that its float32 convolutions do
# not compute in HF32.
FULL_F32_FILE = "no_hf32.ini"

_ONNX = 5
_MODEL_FILE = "model.onnx"
_MOST_BATCH_SIZES = 100
_USUAL_SCRIPT = Path("/usr/local/Ascend/ascend-toolkit/set_env.sh")

# A file sets this, since `--allow_hf32` is reserved and not supported. Source: the ATC reference of
# CANN 8.0 to 9.1.
_FULL_F32_TEXT = "[ByOpType]\nConv2D=enable_float_32_execution\n"

_ERROR_LINE = re.compile(r"\[?ERROR\]?|^E\d{5}|^E[A-Z]\d{4}")
_SHOWN_LINES = 3


@dataclass(frozen=True)
class AtcSpec:
    """The settings for compiling a model with ATC.

    Attributes:
        soc: name of the chip, such as `310P3`.
        batch_sizes: batch sizes of the model: one for a static model, several for a model with a
            dynamic batch; ascending.
        dynamic_batch: whether the model takes several batch sizes.
        precision: `auto`, `f16` or `f32`.
        input_name: name of the model's image input.
        height: height of the image input in pixels.
        width: width of the image input in pixels.
        aipp: whether the compiled model takes bytes, [N, H, W, 3], which the chip normalises.

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
        check_precision_on(self.soc_version, self.precision)
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
        """The compiler's name of the chip, such as `Ascend310P3`."""
        return soc_version(self.soc)

    @property
    def files(self) -> dict[str, str]:
        """Texts of the files that the command needs in addition to the model, by file name."""
        files = {AIPP_FILE: aipp_text(self.height, self.width)} if self.aipp else {}
        if self.precision == "f32" and has_hf32(self.soc_version):
            files[FULL_F32_FILE] = _FULL_F32_TEXT
        return files

    @property
    def output_name(self) -> str:
        """The vendor guide's name of the compiled model without its ending, such as `model_bs1`."""
        return "model_bs" + "_".join(map(str, self.batch_sizes))


@dataclass(frozen=True)
class AtcRun:
    """A finished run of the compiler.

    Attributes:
        command: command for a shell in a folder that has the model and `AtcSpec.files`.
        seconds: time that the command took, in seconds.
        toolchain: version of CANN; empty if unknown.
    """

    command: str
    seconds: float
    toolchain: str


def atc_command(spec: AtcSpec, model: Path, output: Path) -> list[str]:
    """Returns the compiler's command line as a list of arguments, with the program first.

    `shlex.join` makes a shell command of it. The working directory must contain `spec.files`.

    Args:
        spec: settings for the compiler.
        model: path of an ONNX file with a float32 input.
        output: path of the compiled model, without the ending `.om`, which the compiler adds.
    """
    batch = -1 if spec.dynamic_batch else spec.batch_sizes[0]
    shape = f"{batch},3,{spec.height},{spec.width}"
    command = [
        "atc",
        f"--framework={_ONNX}",
        f"--model={model}",
        f"--output={output}",
        "--input_format=NCHW",
        f"--input_shape={spec.input_name}:{shape}",
        "--log=error",
        f"--soc_version={spec.soc_version}",
    ]
    if spec.dynamic_batch:
        command.append(f"--dynamic_batch_size={','.join(map(str, spec.batch_sizes))}")
    files = spec.files
    if AIPP_FILE in files:
        command.append(f"--insert_op_conf={AIPP_FILE}")
    # Half precision is the compiler's default, so it needs no option, as in the guide.
    if spec.precision == "f32":
        command.append("--precision_mode=must_keep_origin_dtype")
    if FULL_F32_FILE in files:
        command.append(f"--op_precision_mode={FULL_F32_FILE}")
    return command


def preparation(spec: AtcSpec) -> list[str]:
    """Returns the shell lines to run before `atc_command`, on this machine or another.

    They unset the variables of this program's Python, set CANN's environment and write
    `spec.files`.
    """
    cann = find_cann()
    script = (cann and cann.script) or _USUAL_SCRIPT
    files = [f"cat > {name} <<'END'\n{text}END" for name, text in spec.files.items()]
    major, minor = first_version(spec.soc_version)
    version = f"  # CANN {major}.{minor} or newer" if major else ""
    return [
        "unset PYTHONPATH PYTHONHOME  # the first python3 of PATH must be one for CANN",
        f"source {shlex.quote(str(script))}{version}",
        *files,
    ]


def aipp_text(height: int = 368, width: int = 640) -> str:
    """Returns the configuration of AIPP, which normalises bytes on the chip: `(x - 128) / 256`.

    The three channels keep their order: the name of the format only describes their memory layout,
    [N, H, W, 3].

    Args:
        height: height of the image input in pixels.
        width: width of the image input in pixels.
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
        **{f"mean_chn_{channel}": MEAN_BYTE for channel in range(3)},
        **{f"min_chn_{channel}": 0.0 for channel in range(3)},
        **{f"var_reci_chn_{channel}": 1 / BYTE_RANGE for channel in range(3)},
    }
    lines = "".join(f"    {key}: {value}\n" for key, value in settings.items())
    return f"aipp_op {{\n{lines}}}\n"


def run_atc(spec: AtcSpec, onnx: bytes) -> tuple[bytes, AtcRun]:
    """Compiles a model, and returns the content of the `.om` and a record of the run.

    Args:
        spec: settings for the compiler.
        onnx: serialised ONNX with a float32 input, even if `spec` uses AIPP.

    Raises:
        SetupError: if CANN or one of its requirements is not installed, or the compiler fails or
            does not write exactly one model.
    """
    cann = find_cann()
    lacks = compiler_lacks(cann, spec.soc)
    if lacks or cann is None:
        what, found, remedy = lacks[0]
        raise SetupError(f"atc cannot compile: {what} is missing; found: {found}", remedy)
    with tempfile.TemporaryDirectory(prefix="atc-") as name:
        folder = Path(name)
        (folder / _MODEL_FILE).write_bytes(onnx)
        for file, text in spec.files.items():
            (folder / file).write_text(text)
        command = atc_command(spec, Path(_MODEL_FILE), Path(spec.output_name))
        start = perf_counter()
        _run(command, folder, compiler_environment(cann))
        seconds = perf_counter() - start
        content = _result(folder, command)
    return content, AtcRun(shlex.join(command), seconds, cann.version)


def toolchain_version() -> str:
    """Returns the version of CANN on this machine, such as `8.0.0`; empty if unknown."""
    cann = find_cann()
    return cann.version if cann else ""


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    # The compiler is looked up in the PATH of CANN's environment, and not in this process's.
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    try:
        answer = subprocess.run(  # noqa: S603 - a list of arguments, through no shell
            [program, *command[1:]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise SetupError(
            f"atc, the Ascend compiler, cannot be run: {error.strerror}",
            "check that CANN's toolkit is installed for this machine's processor",
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
    # Some versions append the host's system and architecture to the name.
    files = sorted(folder.glob("*.om"))
    if len(files) != 1:
        raise SetupError(
            f"atc reported success but wrote {len(files)} .om files",
            f"the command was {shlex.join(command)}",
        )
    return files[0].read_bytes()
