"""Files that appear whole or not at all, and what identifies their content."""

import hashlib
import os
import tempfile
from pathlib import Path

from distributed_pose.errors import ExecutionError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file through a temporary one beside it, so that readers never see a part of it.

    Raises:
        ExecutionError: if the file cannot be written; names it. Nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise ExecutionError(f"cannot write {path}: {error.strerror}") from None


def sha256_hex(content: bytes) -> str:
    """Returns the SHA-256 of the content, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
