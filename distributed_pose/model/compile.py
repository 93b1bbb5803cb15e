"""Compiles the user's model into the artifact that a device runs.

An artifact that takes long to make is kept in the cache, under a key of everything that it depends
on.
"""

import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.files.json_records import Count, Figure, Positive, read_record
from distributed_pose.files.local import sha256_hex
from distributed_pose.model.artifacts import Artifact, ModelSource, cache_key, keep, load_cached
from distributed_pose.model.makers import (
    Calibration,
    Compiler,
    CompilerOutput,
    compiler_for,
    passthrough,
)
from distributed_pose.model.onnx_graph import ports
from distributed_pose.records.models import CompileSpec

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Card:
    """The keys of a cached card that are checked, since anyone can have changed the file.

    The other keys are passed on unchecked.
    """

    bytes: Count
    seconds: Figure
    batch_sizes: list[Positive]
    accuracy: dict[str, float | int | str] | None = None


def needs_device(source: ModelSource, spec: CompileSpec) -> bool:
    """Returns whether a model must be compiled where its device or compiler is installed."""
    return source.format != "om" and compiler_for(spec).needs_device


def portable(source: ModelSource, spec: CompileSpec) -> ModelSource:
    """Returns a model in the form that is sent to the node that compiles it.

    A checkpoint is exported to ONNX, except for backends that take checkpoints alone.

    Raises:
        SetupError: if the backend cannot run a model of this format, or a checkpoint cannot be
            exported.
    """
    if source.format == "om" and "om" not in spec.model_formats:
        raise SetupError(
            f"{source.path} is compiled for Ascend, and backend {spec.backend} cannot run it",
            "give the ONNX file or checkpoint that it was made of",
        )
    if source.format != "pth" or "onnx" not in spec.model_formats:
        return source
    return replace(source, content=_exported(source), format="onnx")


def compile_model(
    source: ModelSource, spec: CompileSpec, calibration: Calibration | None = None
) -> Artifact:
    """Returns an artifact, from the cache if it is kept there.

    Args:
        source: model, as `portable` returns it.
        spec: specification of the artifact.
        calibration: inputs for int8 calibration; None if there are none.

    Raises:
        ConfigError: if the profile's inputs have no fixed size and the device needs one.
        SetupError: if the compiler is missing or refuses the model.
    """
    compiler = compiler_for(spec)
    is_ready = source.format in {"om", "truth", "recording"}
    if is_ready or not compiler.is_kept:
        make = passthrough if is_ready else compiler.make
        return _artifact(source, spec, make(source, spec, calibration), 0.0)
    key = cache_name(source, spec, calibration)
    cached = load_cached(key)
    if cached and _is_card(cached.card):
        _LOG.info("the model for %s, %s, is in the cache", spec.backend, spec.precision)
        return cached
    start = perf_counter()
    made = compiler.make(source, spec, calibration)
    artifact = _artifact(source, spec, made, perf_counter() - start)
    _keep_if_possible(key, artifact)
    return artifact


def cache_name(
    source: ModelSource, spec: CompileSpec, calibration: Calibration | None = None
) -> str:
    """Returns the name that an artifact has in the cache, whether or not it is kept there."""
    return cache_key(_key_parts(source, spec, compiler_for(spec), calibration))


def _key_parts(
    source: ModelSource, spec: CompileSpec, compiler: Compiler, calibration: Calibration | None
) -> dict[str, Any]:
    # An artifact that takes any batch size does not depend on `spec.batch_sizes`.
    sizes = spec.batch_sizes if compiler.needs_device else ()
    target = compiler.device_facts(spec.index) if compiler.device_facts else spec.target
    return {
        "source": sha256_hex(source.content),
        "refinement_stages": source.refinement_stages,
        "order": _facts(replace(spec, batch_sizes=sizes, target=target)),
        "toolchain": compiler.toolchain(),
        "calibration": calibration.digest if calibration and spec.precision == "int8" else "",
    }


def _artifact(
    source: ModelSource, spec: CompileSpec, made: CompilerOutput, seconds: float
) -> Artifact:
    inputs, outputs = ports(source.content) if source.format == "onnx" else ([], [])
    card = {
        **_facts(spec),
        "batch_sizes": list(spec.batch_sizes),
        "inputs": inputs,
        "outputs": outputs,
        "toolchain": made.toolchain,
        "command": made.command,
        "seconds": round(seconds, 3),
        "bytes": len(made.content),
        "sha256": sha256_hex(made.content),
        "source": _made_from(source),
        "made_on": platform.machine(),
    }
    return Artifact(made.content, card)


def _is_card(card: Mapping[str, Any]) -> bool:
    try:
        read_record(_Card, json.dumps(dict(card)))
    except ValueError:
        return False
    return True


def _made_from(source: ModelSource) -> dict[str, Any]:
    facts = {"file": Path(source.path).name, "sha256": source.sha256}
    stages = source.refinement_stages
    return facts if stages is None else {**facts, "refinement_stages": stages}


def _facts(spec: CompileSpec) -> dict[str, Any]:
    """Returns the fields of a specification that determine its artifact."""
    others = {"index", "compiler", "model_formats", "input_size"}
    facts = {key: value for key, value in asdict(spec).items() if key not in others}
    return {**facts, "input_size": str(spec.input_size or "")}


def _keep_if_possible(key: str, artifact: Artifact) -> None:
    try:
        keep(key, artifact)
    except ExecutionError as error:
        # The artifact may have taken minutes to make, so it is used even if it cannot be kept.
        _LOG.warning("not kept for the next run: %s", error)


def _exported(source: ModelSource) -> bytes:
    """Returns a checkpoint as ONNX, which is exported once and kept in the cache."""
    stages = source.refinement_stages or 1
    key = cache_key({"source": source.sha256, "form": "onnx", "stages": stages})
    if cached := load_cached(key):
        return cached.content
    # Files of torch.save need torch, which takes seconds to import and which most runs do not use.
    from distributed_pose.model.checkpoint import load_checkpoint
    from distributed_pose.model.export import export_onnx

    weights = load_checkpoint(source.content, source.path, stages).weights
    content = export_onnx(weights, refinement_stages=stages, last_stage=True)
    card = {"sha256": sha256_hex(content), "made_from": source.sha256, "stages": stages}
    _keep_if_possible(key, Artifact(content, card))
    return content
