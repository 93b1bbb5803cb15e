"""The user's model, what devices run of it, and the cache of what takes long to make."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from distributed_pose.errors import SetupError
from distributed_pose.files import sha256_hex, write_atomically

# Part of every key of the cache: raised when the same order is carried out otherwise.
_CACHE_VERSION = 2

_FORMATS = {".onnx": "onnx", ".pth": "pth", ".pt": "pth", ".om": "om"}

_CARD = "card.json"
_CONTENT = "artifact"


@dataclass(frozen=True)
class Source:
    """The model that the user named, by value.

    Attributes:
        content: of the file.
        format: `onnx`, `pth` (a checkpoint), `om` (compiled for Ascend), `recording` for a list of
            recorded maps, or `truth` for the annotations that fakes answer from.
        sha256: of the content; of a recording, of names, sizes and times of its files.
        path: of the file.
    """

    content: bytes
    format: str
    sha256: str
    path: str


@dataclass(frozen=True)
class Artifact:
    """What a device runs, by value, as it travels to the devices.

    Attributes:
        content: what the backend loads.
        card: what it is and how it was made, in plain values.
    """

    content: bytes
    card: Mapping[str, Any]


def load_source(path: Path) -> Source:
    """Returns the model in a file.

    Raises:
        SetupError: if it cannot be read or its name is not one of a model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", "see model.path") from None
    if path.suffix not in _FORMATS:
        raise SetupError(f"{path} is no model file", "model.path must end in .onnx, .pth or .om")
    return Source(content, _FORMATS[path.suffix], sha256_hex(content), str(path))


def truth_source(location: str, content: bytes) -> Source:
    """Returns what stands in a model's place for backends that answer from annotations."""
    return Source(content, "truth", sha256_hex(content), location)


def cache_folder() -> Path:
    """Returns the folder in which artifacts are kept, under the user's cache folder."""
    return Path(platformdirs.user_cache_dir("distributed_pose")) / "models"


def cache_key(parts: Mapping[str, Any]) -> str:
    """Returns the name under which what depends on these parts is kept."""
    text = json.dumps({"version": _CACHE_VERSION, **parts}, sort_keys=True)
    return sha256_hex(text.encode())[:32]


def load_cached(key: str) -> Artifact | None:
    """Returns an artifact of the cache if it is there, and whole."""
    folder = cache_folder() / key
    try:
        content = (folder / _CONTENT).read_bytes()
        card = json.loads((folder / _CARD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(card, dict) and card.get("sha256") == sha256_hex(content)
    return Artifact(content, card) if is_whole else None


def keep(key: str, artifact: Artifact) -> Path:
    """Returns the folder of an artifact that is now in the cache.

    Raises:
        ExecutionError: if it cannot be written.
    """
    folder = cache_folder() / key
    write_atomically(folder / _CONTENT, artifact.content)
    write_atomically(folder / _CARD, json.dumps(dict(artifact.card), indent=2) + "\n")
    return folder
