"""The sources of the decoder's compiled code, and the folder that the code is cached in."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

from distributed_pose.files.local import user_cache_folder


def sources_digest() -> str:
    """Returns a digest of the files of this room, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def kernels_folder() -> Path:
    """Returns the cache folder for the current version of these sources.

    Numba checks only the file of a function, not the files of the functions that it inlines, so
    after a change of one file the others would keep outdated code.
    """
    configured = os.environ.get("NUMBA_CACHE_DIR")
    return Path(configured or user_cache_folder() / "kernels") / sources_digest()


def completion_mark(folder: Path, *, several_scales: bool = False) -> Path:
    """Returns the file that exists once all kernels of a decoder are in a cache folder.

    Args:
        folder: cache folder of the kernels.
        several_scales: whether the decoder is that of maps at several scales.
    """
    kind = "scales-" if several_scales else ""
    return folder / f"complete-{kind}numba-{version('numba')}"
