"""Compiles a model ahead of a run, for a device that this machine need not have."""

import importlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed_pose.backends.registry import (
    BACKENDS,
    compile_spec,
    entry,
    resolve_backend,
    resolve_precision,
    targets,
)
from distributed_pose.config.schema import RunConfig
from distributed_pose.devices.kinds import CPU, KINDS
from distributed_pose.devices.nvidia import EngineShapes
from distributed_pose.engine.steps import step
from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.evaluation import evaluate
from distributed_pose.files.local import (
    MAX_CARD_BYTES,
    MAX_MODEL_BYTES,
    read_regular,
    sha256_hex,
    write_atomically,
)
from distributed_pose.locations import Location
from distributed_pose.model.artifacts import Artifact, ModelSource, keep
from distributed_pose.model.compile import cache_name, compile_model, portable
from distributed_pose.model.makers import OM, TENSORRT, atc_spec, compiler_for, fixed_input
from distributed_pose.model.onnx_graph import image_input, parse
from distributed_pose.model.onnx_precision import is_quantised
from distributed_pose.packages import load
from distributed_pose.records.images import InputSize
from distributed_pose.records.models import CompileSpec
from distributed_pose.run.inputs import read_inputs
from distributed_pose.vision.profiles import PROFILES

_DEFAULT_INPUT = "data"

# Endings of model files, which are removed from the names of artifacts.
_ENDINGS = frozenset((".onnx", ".pth", ".pt", ".ckpt", ".tar", ".safetensors"))

# The precisions of a quantised model are compared on this many images by default.
_COMPARED_IMAGES = 64


@dataclass(frozen=True)
class Compiled:
    """An artifact and the path of its file.

    Attributes:
        path: path of the file, in the output folder or the cache.
        artifact: artifact with its card.
    """

    path: Path
    artifact: Artifact


def compile_specs(
    target: str,
    precision: str,
    profile: str,
    batch_sizes: Sequence[int],
    *,
    dynamic: bool,
    input_size: InputSize | None = None,
) -> list[CompileSpec]:
    """Returns one specification per artifact to compile.

    There is one artifact for all batch sizes, except that Ascend has one artifact per batch size
    unless `dynamic` is set.

    Args:
        target: target of a backend's entry, with the name of the chip if artifacts are bound to
            one, as in `ascend310p3`.
        precision: precision as configured, which may be `auto`.
        profile: preprocessing profile.
        batch_sizes: batch sizes that the artifacts must take.
        dynamic: whether one Ascend artifact takes all batch sizes.
        input_size: size of the network inputs; None for the size of the profile.

    Raises:
        ConfigError: if the target is unknown, or does not support the precision.
    """
    name, chip = _backend_for(target)
    if target == "onnxruntime" and precision not in {"auto", "f32"}:
        raise ConfigError(
            f"--for onnxruntime --precision {precision}: it runs a model in the precision that the "
            "model has, and none is converted for it",
            "leave --precision out",
        )
    (kind, *_) = entry(name).kinds
    backend = resolve_backend(name, kind, precision)
    soc = load(KINDS[kind].chip_namer)(chip) if chip else ""
    resolved = resolve_precision(backend, precision)
    spec = compile_spec(backend, resolved, profile, target=soc, input_size=input_size)
    if not chip or dynamic:
        return [replace(spec, batch_sizes=tuple(sorted(batch_sizes)))]
    return [replace(spec, batch_sizes=(size,)) for size in batch_sizes]


def _backend_for(target: str) -> tuple[str, str]:
    """Returns the backend of a target, and the name of the chip that the target ends with.

    Raises:
        ConfigError: if there is no such target.
    """
    offered = {name: found for name, found in BACKENDS.working().items() if found.target}
    for name, found in offered.items():
        chip = "(.+)" if found.bound_to == "chip" else "()"
        if match := re.fullmatch(re.escape(found.target) + chip, target, re.IGNORECASE):
            return name, match[1]
    raise ConfigError(
        f"--for {target}: there is no such target",
        f"known: {', '.join(targets(offered))}, such as ascend310p3",
    )


def commands_for(source: ModelSource, specs: Sequence[CompileSpec]) -> str:
    """Returns the shell lines that compile a model on a machine with the vendor's compiler.

    Args:
        source: ONNX file or checkpoint.
        specs: specifications of the artifacts to compile.

    Raises:
        ConfigError: if a library compiles an artifact, without any command.
        SetupError: if the model is compiled already.
    """
    if source.format == "om":
        raise SetupError(f"{source.path} is compiled already", "give the model that it was made of")
    lines = []
    onnx, name = Path(source.path), _DEFAULT_INPUT
    if source.format == "onnx":
        name = image_input(parse(source.content)).name
    else:
        onnx = _exported_name(onnx)
        lines.append(_export_line(source, onnx))
    preparation: list[str] = []
    commands = []
    for spec in specs:
        write = _COMMAND_WRITERS.get(compiler_for(spec))
        if write is None:
            raise ConfigError(
                f"--dry-run: {spec.backend} is compiled by a library, without any command",
                "leave --dry-run out",
            )
        preparation, command = write(onnx, name, spec)
        commands.append(command)
    return "\n".join([*lines, *preparation, *commands])


def compile_for(
    source: ModelSource, specs: Sequence[CompileSpec], config: RunConfig, output: Path | None
) -> list[Compiled]:
    """Returns the artifacts of a model, compiled or from the cache.

    The card of an int8 artifact contains its AP and the AP in float32, if the data has annotations.

    Args:
        source: ONNX file or checkpoint.
        specs: specifications of the artifacts to compile.
        config: configuration whose data int8 is calibrated with and compared on; without any data,
            those of the demo are used.
        output: folder for copies of artifacts and cards; None leaves them in the cache.

    Raises:
        SetupError: if a compiler is missing or refuses the model, the inputs of the model do not
            match the profile, or the output folder has another file of the same name.
    """
    model = Path(source.path)
    if output:
        for spec in specs:
            _check_owner(_path(model, spec, output))
    compiled = []
    for spec in specs:
        ranges, run = None, config
        if spec.precision == "int8":
            _check_exact(source)
            run = _with_data(config, model, spec)
            step("reading the images for calibration")
            ranges = read_inputs(run).calibration
        step(f"compiling for {spec.target or spec.backend}, {spec.precision}")
        made_of = portable(source, spec)
        artifact = compile_model(made_of, spec, ranges)
        key = cache_name(made_of, spec, ranges)
        if spec.precision == "int8" and "accuracy" not in artifact.card:
            step("comparing int8 with float32")
            accuracy = _accuracy(run)
            if accuracy:
                artifact = replace(artifact, card={**artifact.card, "accuracy": accuracy})
                keep(key, artifact)
        compiled.append(Compiled(_written(model, spec, artifact, key, output), artifact))
    return compiled


def _check_exact(source: ModelSource) -> None:
    if source.format == "onnx" and is_quantised(parse(source.content)):
        raise SetupError(
            f"{source.path} is quantised already", "run it as it is, with precision=auto"
        )


def _written(
    model: Path, spec: CompileSpec, artifact: Artifact, key: str, output: Path | None
) -> Path:
    if output is None:
        return keep(key, artifact)
    path = _path(model, spec, output)
    write_atomically(path, artifact.content)
    write_atomically(path.with_suffix(".json"), _card_text(artifact))
    return path


def _path(model: Path, spec: CompileSpec, output: Path) -> Path:
    batches = "_".join(map(str, spec.batch_sizes))
    suffix = compiler_for(spec).suffix_for(spec)
    target = spec.target or spec.backend.replace(":", "_")
    return output / f"{_stem(model)}_{target}_bs{batches}{suffix}"


def _check_owner(path: Path) -> None:
    """Checks that a path is free, or has an artifact with its card, which may be replaced.

    Raises:
        SetupError: if the path or the path of its card has another file.
    """
    card = path.with_suffix(".json")
    if not os.path.lexists(path) and not os.path.lexists(card):
        return
    try:
        stated = json.loads(read_regular(card, MAX_CARD_BYTES))["sha256"]
        is_own = stated == sha256_hex(read_regular(path, MAX_MODEL_BYTES))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        is_own = False
    if not is_own:
        raise SetupError(
            f"{path} or {card.name} already exists and is not an artifact with its card",
            "choose another --output, or remove them",
        )


def _stem(model: Path) -> str:
    """Returns the name of a model file without its endings; `.pth.tar` counts as two endings."""
    name = Path(model.name)
    while name.suffix.lower() in _ENDINGS:
        name = Path(name.stem)
    return str(name)


def _exported_name(checkpoint: Path) -> Path:
    stem = _stem(checkpoint)
    # A checkpoint can have any name, and must not be overwritten.
    is_taken = f"{stem}.onnx" == checkpoint.name
    return checkpoint.with_name(f"{stem}_exported.onnx" if is_taken else f"{stem}.onnx")


def _export_line(source: ModelSource, onnx: Path) -> str:
    words = ["distributed-pose", "export", source.path, str(onnx)]
    if (source.refinement_stages or 1) != 1:
        words += ["--refinement-stages", str(source.refinement_stages)]
    return shlex.join(words)


def _card_text(artifact: Artifact) -> str:
    return json.dumps(dict(artifact.card), indent=2) + "\n"


def _with_data(config: RunConfig, model: Path, spec: CompileSpec) -> RunConfig:
    data = config.data
    if not (data.images or data.annotations):
        # The demo is imported by name, so that the package does not depend on its demo.
        demo = importlib.import_module("distributed_pose.demo.default").prepare_demo(64)
        paths = {"images": Location(demo.images), "annotations": Location(demo.annotations)}
        data = data.model_copy(update=paths)
    data = data.model_copy(update={"limit": data.limit or _COMPARED_IMAGES})
    update: dict[str, Any] = {
        "data": data,
        "model": config.model.model_copy(update={"path": model}),
        "backend": spec.backend,
        "precision": spec.precision,
        "profile": spec.profile,
        "input": str(spec.input_size or "auto"),
        "engine": "inline",
        "devices": (CPU,),
    }
    return config.model_copy(update=update)


def _accuracy(config: RunConfig) -> dict[str, Any]:
    """Returns AP by precision and the number of images; empty if the data has no annotations."""
    figures: dict[str, Any] = {}
    # A bad image is not the fault of the model, and lowers the AP of both precisions.
    config = config.model_copy(update={"allow_failures": config.data.limit})
    for precision in ("f32", config.precision):
        report = evaluate(config.model_copy(update={"precision": precision}))
        if report.ap is None:
            return {}
        figures[precision] = round(report.ap["AP"], 4)
    return {"images": report.num_images, **figures}


def _atc_lines(onnx: Path, name: str, spec: CompileSpec) -> tuple[list[str], str]:
    """Returns the lines that prepare a shell for the ATC compiler, and the command line of ATC."""
    from distributed_pose.model.atc import atc_command, preparation

    wanted = atc_spec(name, spec)
    batches = "_".join(map(str, spec.batch_sizes))
    output = Path(f"{_stem(onnx)}_bs{batches}")
    return preparation(wanted), shlex.join(atc_command(wanted, onnx, output))


def _trtexec_lines(onnx: Path, name: str, spec: CompileSpec) -> tuple[list[str], str]:
    """Returns no preparation, and the command line of trtexec."""
    from distributed_pose.model.tensorrt import trtexec_command

    height, width = fixed_input(spec)
    if PROFILES[spec.profile].on_bytes:
        raise ConfigError(
            "--dry-run: an engine on bytes is made of a model that normalises by itself",
            "leave --dry-run out, or set profile=modelzoo",
        )
    # As in a run, an engine for several batch sizes takes single images, too.
    most = max(spec.batch_sizes)
    least = most if len(spec.batch_sizes) == 1 else 1
    shapes = EngineShapes(name, least, most, height, width)
    return [], shlex.join(trtexec_command(onnx, shapes=shapes, precision=spec.precision))


_COMMAND_WRITERS = {OM: _atc_lines, TENSORRT: _trtexec_lines}
