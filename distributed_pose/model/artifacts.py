"""What a backend loads, made from what the user has and kept by content."""

from dataclasses import dataclass
from pathlib import Path

import platformdirs

from distributed_pose.errors import SetupError
from distributed_pose.files import sha256_hex, write_atomically

# Part of the cache key: raised when the export of the same checkpoint changes.
_EXPORT_VERSION = 1


@dataclass(frozen=True)
class Artifact:
    """A model by value, as it travels to the devices.

    Attributes:
        content: what the backend loads; serialised ONNX for those that run networks.
        sha256: of the file that the user named.
        source: that file, or what stands in its place.
    """

    content: bytes
    sha256: str
    source: str


def load_model(path: Path) -> Artifact:
    """Returns the ONNX of a model file; a checkpoint is exported once and cached by content.

    Raises:
        SetupError: if the file cannot be read or is no model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", "see model.path") from None
    sha256 = sha256_hex(content)
    if path.suffix == ".onnx":
        return Artifact(content, sha256, str(path))
    if path.suffix in {".pth", ".pt"}:
        return Artifact(_exported(path, sha256), sha256, str(path))
    raise SetupError(f"{path} is no model file", "model.path must end in .onnx or .pth")


def cache_folder() -> Path:
    """Returns the folder in which models are kept, under the user's cache folder."""
    return Path(platformdirs.user_cache_dir("distributed_pose")) / "models"


def _exported(path: Path, sha256: str) -> bytes:
    cached = cache_folder() / f"{sha256}-onnx-v{_EXPORT_VERSION}.onnx"
    if cached.exists():
        return cached.read_bytes()
    # torch takes seconds to import, and most runs have an ONNX file or a cached one.
    from distributed_pose.model.checkpoint import load_checkpoint
    from distributed_pose.model.export import export_onnx

    content = export_onnx(load_checkpoint(path), last_stage=True)
    write_atomically(cached, content)
    return content
