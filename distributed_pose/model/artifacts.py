"""The user's model, what devices run of it, and the cache of what takes long to make."""

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

# In front of every name in the cache: raised when the same order is carried out otherwise.
CACHE_VERSION = "v5-"

# A snapshot of three stages with its optimizer has 84 MiB.
_MAX_CHECKPOINT_BYTES = 256 * 2**20

_CARD = "card.json"
_CONTENT = "artifact"


@dataclass(frozen=True)
class ModelSource:
    """The model that the user named, by value.

    Attributes:
        content: of the file; of ONNX with the weights that lie beside it.
        format: `onnx`, `pth` (a checkpoint in any format), `om` (compiled for Ascend), `recording`
            for a list of recorded maps, or `truth` for the annotations that fakes answer from.
        sha256: of the file, and of the weights beside it if there are any (see `external_data`); of
            a recording, of names, sizes and times of its files.
        path: of the file.
        refinement_stages: of a checkpoint, how many of its stages the network gets; else None.
        unused: of a checkpoint, names of what else the file holds.
        notes: of a checkpoint, sentences for the user.
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
    """What a device runs, by value, as it travels to the devices.

    Attributes:
        content: what the backend loads.
        card: what it is and how it was made, in plain values.
    """

    content: bytes
    card: Mapping[str, Any]


@dataclass(frozen=True)
class _Description:
    """What there is to tell about a checkpoint, as the cache keeps it."""

    unused: list[str]
    notes: list[str]


def load_source(path: Path, refinement_stages: int = 1) -> ModelSource:
    """Returns the model in a file, recognised by its content.

    A checkpoint is checked against the network, and described by its notes.

    Args:
        path: of the file, whatever its name ends in.
        refinement_stages: how many stages the network of a checkpoint gets.

    Raises:
        ConfigError: if stages are asked of a model that is no checkpoint.
        SetupError: if it cannot be read, is no model, or is ONNX that is damaged or whose weights
            are not beside it.
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
    """Checks that no stages are asked of what is no checkpoint, and has the stages that it has.

    Raises:
        ConfigError: if there are.
    """
    if refinement_stages != 1:
        raise ConfigError(
            f"model.refinement_stages={refinement_stages} is for checkpoints, and {path} is none",
            "leave it out, or give the checkpoint that the model was made of",
        )


def _read(path: Path) -> tuple[bytes, str]:
    """Returns content and format of a model; of any other file, only the start is read."""
    try:
        kind = format_of(read_head(path, HEAD_BYTES), str(path))
        limit = _MAX_CHECKPOINT_BYTES if kind == "pth" else MAX_MODEL_BYTES
        return read_regular(path, limit), kind
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", "see model.path") from None


def _described(source: ModelSource, refinement_stages: int) -> ModelSource:
    """Returns a checkpoint with what there is to tell about it, which is kept by content."""
    parts = {"source": source.sha256, "form": "description", "stages": refinement_stages}
    key = cache_key({**parts, "by": version("distributed-pose")})
    facts = _described_before(key)
    if facts is None:
        # Reading files of torch.save takes torch, and seconds to import it; most runs do without.
        from distributed_pose.model.checkpoint import load_checkpoint

        found = load_checkpoint(source.content, source.path, refinement_stages)
        facts = _Description(list(found.unused), list(found.notes))
        text = json.dumps(asdict(facts)).encode()
        cached = Artifact(text, {"sha256": sha256_hex(text), "made_from": source.sha256})
        # Without a cache it is read again by the next run.
        with contextlib.suppress(ExecutionError):
            keep(key, cached)
    return replace(
        source,
        refinement_stages=refinement_stages,
        unused=tuple(facts.unused),
        notes=tuple(facts.notes),
    )


def _described_before(key: str) -> _Description | None:
    """Returns the description of a checkpoint in the cache, if it is there and is one."""
    cached = load_cached(key)
    try:
        return read_record(_Description, cached.content) if cached else None
    except ValueError:
        return None


def truth_source(location: str, content: bytes) -> ModelSource:
    """Returns what stands in a model's place for backends that answer from annotations."""
    return ModelSource(content, "truth", sha256_hex(content), location)


def cache_folder() -> Path:
    """Returns the folder in which artifacts are kept, under the user's cache folder."""
    return user_cache_folder() / "models"


def cache_key(parts: Mapping[str, Any]) -> str:
    """Returns the name under which what depends on these parts is kept."""
    text = json.dumps(dict(parts), sort_keys=True)
    return f"{CACHE_VERSION}{sha256_hex(text.encode())[:32]}"


def load_cached(key: str) -> Artifact | None:
    """Returns an artifact of the cache if it is there, and whole."""
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
    """Returns the folder of an artifact that is now in the cache, for which room is made.

    Raises:
        ExecutionError: if it cannot be written.
    """
    folder = cache_folder() / key
    with new_entry(folder):
        write_atomically(folder / _CONTENT, artifact.content)
        write_atomically(folder / _CARD, json.dumps(dict(artifact.card), indent=2) + "\n")
    return folder
