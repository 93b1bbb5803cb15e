"""The user's model, the artifacts that devices run, and the cache in which artifacts are kept."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distributed_pose.cache.entries import new_entry
from distributed_pose.cache.marks import in_use
from distributed_pose.errors import ConfigError, ExecutionError, SetupError
from distributed_pose.files.json_records import read_record
from distributed_pose.files.local import (
    MAX_CARD_BYTES,
    MAX_MODEL_BYTES,
    read_head,
    read_regular,
    sha256_hex,
    user_cache_folder,
    write_atomically,
)
from distributed_pose.model.external_data import self_contained
from distributed_pose.model.formats import HEAD_BYTES, format_of

# The prefix of every name in the cache. It is raised when a specification gives another artifact,
# so that artifacts of earlier versions are not found any more.
CACHE_VERSION = "v5-"

# A snapshot of three stages with the state of its optimizer takes 84 MiB.
_MAX_CHECKPOINT_BYTES = 256 * 2**20

_CARD = "card.json"
_CONTENT = "artifact"


@dataclass(frozen=True)
class ModelSource:
    """The model that the user named, by value.

    Attributes:
        content: content of the file; an ONNX model includes the weights of the files beside it.
        format: `onnx`, `pth` (a checkpoint in any format), `om` (compiled for Ascend), `recording`
            for a list of recorded maps, or `truth` for the annotations that fakes answer from.
        sha256: SHA-256 of the file and of the weights beside it, if any (see `external_data`); for
            a recording, SHA-256 of the names, sizes and times of its files.
        path: path of the file.
        refinement_stages: number of refinement stages that the network of a checkpoint gets; None
            for other formats.
        unused: names of the other entries in the file of a checkpoint.
        notes: sentences for the user about a checkpoint.
    """

    content: bytes
    format: str
    sha256: str
    path: str
    refinement_stages: int | None = None
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A model in the form that a device runs; it travels to the devices by value.

    Attributes:
        content: bytes that the backend loads.
        card: description of the content and of how it was made, in plain values.
    """

    content: bytes
    card: Mapping[str, Any]


@dataclass(frozen=True)
class _Description:
    """The description of a checkpoint for the user, as the cache keeps it."""

    unused: list[str]
    notes: list[str]


def load_source(path: Path, refinement_stages: int = 1) -> ModelSource:
    """Returns the model in a file, whose format is recognised by its content.

    A checkpoint is checked against the network, and described by its notes.

    Args:
        path: path of the file. Its suffix decides only if the content does not show the format.
        refinement_stages: number of refinement stages that the network of a checkpoint gets.

    Raises:
        ConfigError: if the number of stages is set for a model that is not a checkpoint.
        SetupError: if the file cannot be read, is not a model, is a checkpoint of another network,
            or is ONNX that is damaged or whose weights are not beside it.
    """
    content, kind = _read(path)
    sha256 = sha256_hex(content)
    if kind == "pth":
        return _described(ModelSource(content, kind, sha256, str(path)), refinement_stages)
    check_stages(refinement_stages, str(path))
    if kind == "onnx":
        content, sha256 = self_contained(path, content)
    return ModelSource(content, kind, sha256, str(path))


def check_stages(refinement_stages: int, path: str) -> None:
    """Checks that the number of stages is not set for a model whose stages are fixed.

    Args:
        refinement_stages: requested number of refinement stages; 1 is the default.
        path: path of a model that is not a checkpoint, for messages.

    Raises:
        ConfigError: if the number of stages is not the default.
    """
    if refinement_stages != 1:
        raise ConfigError(
            f"model.refinement_stages={refinement_stages} applies only to checkpoints, and {path} "
            "is not one",
            "leave it out, or give the checkpoint that the model was made from",
        )


def _read(path: Path) -> tuple[bytes, str]:
    """Returns content and format of a model; reads only the start of any other file."""
    try:
        kind = format_of(read_head(path, HEAD_BYTES), str(path))
        limit = _MAX_CHECKPOINT_BYTES if kind == "pth" else MAX_MODEL_BYTES
        return read_regular(path, limit), kind
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", "check model.path") from None


def _described(source: ModelSource, refinement_stages: int) -> ModelSource:
    """Returns a checkpoint with its description, which the cache keeps by the file's digest."""
    parts = {"source": source.sha256, "form": "description", "stages": refinement_stages}
    key = cache_key({**parts, "by": version("distributed-pose")})
    facts = _described_before(key)
    if facts is None:
        # Files of torch.save need torch, which takes seconds to import; most runs do not use it.
        from distributed_pose.model.checkpoint import load_checkpoint

        found = load_checkpoint(source.content, source.path, refinement_stages)
        facts = _Description(list(found.unused), list(found.notes))
        text = json.dumps(asdict(facts)).encode()
        cached = Artifact(text, {"sha256": sha256_hex(text), "made_from": source.sha256})
        # The description is only kept to save time: without a cache the next run makes it again.
        with contextlib.suppress(ExecutionError):
            keep(key, cached)
    return replace(
        source,
        refinement_stages=refinement_stages,
        unused=tuple(facts.unused),
        notes=tuple(facts.notes),
    )


def _described_before(key: str) -> _Description | None:
    """Returns the description of a checkpoint from the cache; None if it is missing or invalid."""
    cached = load_cached(key)
    try:
        return read_record(_Description, cached.content) if cached else None
    except ValueError:
        return None


def truth_source(location: str, content: bytes) -> ModelSource:
    """Returns annotations in the place of a model, for backends that answer from them.

    Args:
        location: location of the annotation file.
        content: content of the annotation file.
    """
    return ModelSource(content, "truth", sha256_hex(content), location)


def cache_folder() -> Path:
    """Returns the folder in which artifacts are kept, under the user's cache folder."""
    return user_cache_folder() / "models"


def cache_key(parts: Mapping[str, Any]) -> str:
    """Returns the cache name of an entry that depends on these parts alone."""
    text = json.dumps(dict(parts), sort_keys=True)
    return f"{CACHE_VERSION}{sha256_hex(text.encode())[:32]}"


def load_cached(key: str) -> Artifact | None:
    """Returns an artifact from the cache; None if it is missing, unreadable or damaged."""
    folder = cache_folder() / key
    try:
        with in_use(folder):
            content = read_regular(folder / _CONTENT, MAX_MODEL_BYTES)
            card = json.loads(read_regular(folder / _CARD, MAX_CARD_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(card, dict) and card.get("sha256") == sha256_hex(content)
    return Artifact(content, card) if is_whole else None


def keep(key: str, artifact: Artifact) -> Path:
    """Writes an artifact to the cache, makes room for it, and returns its folder.

    Raises:
        ExecutionError: if the artifact cannot be written.
    """
    folder = cache_folder() / key
    with new_entry(folder):
        write_atomically(folder / _CONTENT, artifact.content)
        write_atomically(folder / _CARD, json.dumps(dict(artifact.card), indent=2) + "\n")
    return folder
