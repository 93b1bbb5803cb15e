"""Turns a portable model into the artifact that a backend loads.

Each compiler calls a vendor's compiler or a library and reports its version. The entry of a backend
names its compiler.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from distributed_pose.devices.nvidia import cuda_device_facts
from distributed_pose.errors import ConfigError, SetupError, first_line
from distributed_pose.model.artifacts import ModelSource
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.model.onnx_graph import image_input, parse
from distributed_pose.model.onnx_precision import is_quantised, precision_of
from distributed_pose.packages import load, require
from distributed_pose.records.images import InputSize
from distributed_pose.records.models import CompileSpec
from distributed_pose.vision.profiles import PROFILES

if TYPE_CHECKING:
    from distributed_pose.model.atc import AtcSpec


@dataclass(frozen=True)
class Calibration:
    """Network inputs from which int8 takes the ranges of values.

    Attributes:
        inputs: function that returns arrays [1, 3, H, W] as the profile makes them.
        digest: digest that identifies the images of the inputs.
        num_images: number of images.
    """

    inputs: Callable[[], Iterable[npt.NDArray[Any]]]
    digest: str
    num_images: int


@dataclass(frozen=True)
class CompilerOutput:
    """The output of a compiler.

    Attributes:
        content: artifact that the backend loads.
        toolchain: compiler or library that made the content, with its version.
        command: command that was run; empty if the content was made in this process.
    """

    content: bytes
    toolchain: str
    command: str = ""


@dataclass(frozen=True)
class Compiler:
    """The compiler of a backend's artifacts.

    Attributes:
        make: function that makes an artifact from a model, a specification and the inputs for int8
            calibration.
        toolchain: function that returns the versions of all further software that an artifact
            depends on.
        needs_device: whether an artifact can only be made where the device or its compiler is
            installed.
        is_kept: whether artifacts are kept in the cache, since making one takes longer than
            reading it.
        suffix: ending of the file of an artifact.
        suffix_of_several: ending where the artifact has a part for each of several batch sizes.
        device_facts: function that returns the facts that an artifact depends on about the device
            of an index; None if the target identifies the device.
        int8: compiler of artifacts in int8, where it is another one.
    """

    make: Callable[[ModelSource, CompileSpec, Calibration | None], CompilerOutput]
    toolchain: Callable[[], str]
    needs_device: bool = False
    is_kept: bool = True
    suffix: str = ".onnx"
    suffix_of_several: str = ""
    device_facts: Callable[[int], str] | None = None
    int8: "Compiler | None" = None

    def suffix_for(self, spec: CompileSpec) -> str:
        """Returns the ending of the file of an artifact."""
        return (self.suffix_of_several if len(spec.batch_sizes) > 1 else "") or self.suffix


def fixed_input(spec: CompileSpec) -> InputSize:
    """Returns the size of every network input of an artifact.

    Raises:
        ConfigError: if the width depends on the image.
    """
    profile = PROFILES[spec.profile].sized(spec.input_size)
    if not profile.is_fixed:
        raise ConfigError(
            f"profile {profile.name} has inputs of any width, and this backend compiles fixed "
            "shapes",
            "set profile=modelzoo or profile=uint8",
        )
    return profile.size


def atc_spec(input_name: str, spec: CompileSpec) -> "AtcSpec":
    """Returns the settings of the Ascend compiler for an artifact.

    Args:
        input_name: name of the model's image input.
        spec: specification of an artifact for Ascend.

    Raises:
        ConfigError: if the chip is unknown or invalid, or the profile has no fixed size.
        SetupError: if the chip lacks the precision.
    """
    from distributed_pose.model.atc import AtcSpec

    height, width = fixed_input(spec)
    if not spec.target:
        raise ConfigError(
            "npu.soc is not set, and the node does not report its chip",
            "set npu.soc=310P3 (check `npu-smi info`), or start the node with "
            "`ray start --labels soc=310P3`",
        )
    return AtcSpec(
        spec.target,
        spec.batch_sizes,
        dynamic_batch=len(spec.batch_sizes) > 1,
        precision=spec.precision,
        input_name=input_name,
        height=height,
        width=width,
        # The chip's own preprocessing normalises bytes, and the model stays as it is.
        aipp=PROFILES[spec.profile].on_bytes,
    )


def _folded(source: ModelSource, spec: CompileSpec) -> bytes:
    folds = PROFILES[spec.profile].on_bytes
    return fold_normalisation(source.content) if folds else source.content


def passthrough(
    source: ModelSource, _order: CompileSpec, _calibration: Calibration | None
) -> CompilerOutput:
    """Returns a model unchanged, as the artifact of a backend that loads it directly."""
    return CompilerOutput(source.content, "")


def _make_onnx(
    source: ModelSource, spec: CompileSpec, _calibration: Calibration | None
) -> CompilerOutput:
    return CompilerOutput(_folded(source, spec), _onnx_version())


def _make_int8(
    source: ModelSource, spec: CompileSpec, calibration: Calibration | None
) -> CompilerOutput:
    content = _folded(source, spec)
    if is_quantised(parse(content)):
        return CompilerOutput(content, _onnx_version())
    if calibration is None:
        raise SetupError("int8 needs images for calibration", "set data.images")
    # Imported only here, because it loads a runtime and a statistics library.
    from distributed_pose.model.quantise import quantise

    return CompilerOutput(quantise(content, calibration.inputs()), _int8_version())


def _make_half(
    source: ModelSource, spec: CompileSpec, _calibration: Calibration | None
) -> CompilerOutput:
    return CompilerOutput(_halved(_folded(source, spec), spec), _half_version())


def _halved(content: bytes, spec: CompileSpec) -> bytes:
    """Returns a model in half precision if `spec` requests it, and a quantised one unchanged."""
    if spec.precision != "f16":
        return content
    model = parse(content)
    if is_quantised(model) or precision_of(model, fuses=True) == "f16":
        return content
    require("onnxruntime", extra="gpu", purpose="converting models to half precision")
    from distributed_pose.model.half import to_half

    return to_half(content, half_outputs=True)


def _make_tensorrt(
    source: ModelSource, spec: CompileSpec, _calibration: Calibration | None
) -> CompilerOutput:
    require("onnxruntime", extra="tensorrt", purpose=f"backend {spec.backend}")
    from distributed_pose.model import tensorrt

    height, width = fixed_input(spec)
    content = tensorrt.build_engines(
        _halved(_folded(source, spec), spec),
        batch_sizes=spec.batch_sizes,
        height=height,
        width=width,
        precision=spec.precision,
        index=spec.index,
    )
    return CompilerOutput(content, _tensorrt_version())


def _make_om(
    source: ModelSource, spec: CompileSpec, _calibration: Calibration | None
) -> CompilerOutput:
    from distributed_pose.model import atc

    name = image_input(parse(source.content)).name
    content, ran = atc.run_atc(atc_spec(name, spec), source.content)
    return CompilerOutput(content, ran.toolchain, ran.command)


def _make_torch(
    source: ModelSource, spec: CompileSpec, _calibration: Calibration | None
) -> CompilerOutput:
    if source.format != "pth":
        raise SetupError(
            f"backend {spec.backend} runs checkpoints of Lightweight OpenPose, and "
            f"{source.path} is {source.format.upper()}",
            "give its checkpoint, or choose another backend such as onnxruntime",
        )
    require("torch", extra="torch", purpose=f"backend {spec.backend}")
    from distributed_pose.model.checkpoint import load_checkpoint
    from distributed_pose.model.network import network_of
    from distributed_pose.model.torch_program import export_program

    stages = source.refinement_stages or 1
    weights = load_checkpoint(source.content, source.path, stages).weights
    network = network_of(weights, stages)
    on_bytes = PROFILES[spec.profile].on_bytes
    return CompilerOutput(export_program(network, on_bytes=on_bytes), _torch_version())


def _onnx_version() -> str:
    return f"onnx {version('onnx')}"


def _half_version() -> str:
    # The converter is part of ONNX Runtime, whose distribution has another name for each device,
    # so that the version is read from the module.
    require("onnxruntime", extra="gpu", purpose="converting models to half precision")
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}, onnx {version('onnx')}"


def _int8_version() -> str:
    from distributed_pose.model.quantise import quantiser_version

    return quantiser_version()


def _torch_version() -> str:
    require("torch", extra="torch", purpose="backends of PyTorch")
    return f"torch {version('torch')}"


def _ascend_version() -> str:
    from distributed_pose.model.atc import toolchain_version

    return f"CANN {toolchain_version() or 'of unknown version'}"


def _tensorrt_version() -> str:
    require("onnxruntime", extra="tensorrt", purpose="backend onnxruntime:tensorrt")
    from distributed_pose.model.tensorrt import toolkit_version

    return toolkit_version()


ONNX = Compiler(_make_onnx, _onnx_version, is_kept=False)
# `model.quantise` packs a model of several parts as a ZIP archive.
OPENVINO = replace(ONNX, int8=Compiler(_make_int8, _int8_version, suffix=".zip"))
HALF = Compiler(_make_half, _half_version)
# `model.engines` packs an engine for each batch size as a ZIP archive. The driver identifies an
# engine's GPU, since other sources of its name differ.
TENSORRT = Compiler(
    _make_tensorrt,
    _tensorrt_version,
    needs_device=True,
    suffix_of_several=".zip",
    device_facts=cuda_device_facts,
)
TORCH = Compiler(_make_torch, _torch_version, suffix=".pt2")
OM = Compiler(_make_om, _ascend_version, needs_device=True, suffix=".om")

# Backends that are not runtimes of models load their source unchanged.
_NONE = Compiler(passthrough, lambda: "", is_kept=False)


def compiler_for(spec: CompileSpec) -> Compiler:
    """Returns the compiler of an artifact.

    Raises:
        SetupError: if the package that has the compiler is not installed here.
    """
    try:
        compiler: Compiler = load(spec.compiler) if spec.compiler else _NONE
    except (ImportError, AttributeError) as error:
        raise SetupError(
            f"backend {spec.backend}: its compiler cannot be loaded: {first_line(error)}",
            "install the package that registers it on all nodes",
        ) from None
    return compiler.int8 if compiler.int8 and spec.precision == "int8" else compiler
