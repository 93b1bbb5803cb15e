"""Reads files within a limit and without blocking, and writes files atomically.

Files that a user names are read by `read_regular`, or by `storage.read_location` if the name may be
a URI. Neither waits for a pipe, and neither reads more than the caller's limit.
"""

import atexit
import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK
from typing import BinaryIO

import platformdirs

from distributed_pose.errors import ConfigError, ExecutionError

# The maximum size of a protobuf message, and therefore of an ONNX file.
MAX_MODEL_BYTES = 2**31

# The limit for small JSON files such as cards and costs, which usually have about a kilobyte.
MAX_CARD_BYTES = 2**20

# Temporary files have this prefix and 16 hexadecimal digits; a killed process leaves them behind.
PARTIAL_PREFIX = ".partial-"

_CHUNK_BYTES = 2**20

_KINDS = (
    (S_ISDIR, "a folder"),
    (S_ISFIFO, "a pipe"),
    (S_ISSOCK, "a socket"),
    (S_ISCHR, "a device"),
    (S_ISBLK, "a device"),
)

_LOG = logging.getLogger(__name__)


def read_regular(path: Path | str, max_bytes: int) -> bytes:
    """Returns the content of a regular file; never blocks and never exceeds a limit.

    Args:
        path: path of the file; links are followed.
        max_bytes: maximum size of the file.

    Raises:
        OSError: if the path cannot be read, is a pipe, device, socket or folder, or the file is too
            large. `strerror` states which.
    """
    with _opened_regular(path) as stream:
        status = os.fstat(stream.fileno())
        check_size(status.st_size, max_bytes)
        # One further byte reveals a file that grows, or one in /proc, whose size is 0.
        parts = [stream.read(status.st_size + 1) or b""]
        size = len(parts[0])
        while status.st_size < size <= max_bytes and (part := stream.read(_CHUNK_BYTES)):
            parts.append(part)
            size += len(part)
    check_size(size, max_bytes)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_head(path: Path | str, num_bytes: int) -> bytes:
    """Returns up to `num_bytes` bytes from the start of a regular file; see `read_regular`.

    Raises:
        OSError: if the path cannot be read, or is a pipe, device, socket or folder.
    """
    with _opened_regular(path) as stream:
        return stream.read(num_bytes)


@contextmanager
def _opened_regular(path: Path | str) -> Iterator[BinaryIO]:
    # Checked before it is opened, because opening a device can have side effects.
    check_regular(os.stat(path).st_mode)  # noqa: PTH116 - the path may be a str
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as stream:
        check_regular(os.fstat(descriptor).st_mode)
        yield stream


def open_inside(root: str, name: str) -> int:
    """Returns a descriptor to read a regular file in a folder; never blocks.

    Args:
        root: resolved path of the folder, with a slash at its end.
        name: path of the file relative to the folder.

    Raises:
        OSError: if the file cannot be opened, is not a regular file, or is outside the folder.
    """
    path = root + name
    # Resolving the path of a file takes half as long as reading it.
    if "/" in name or os.path.islink(path):  # noqa: PTH114
        path = os.path.realpath(path)
        if not path.startswith(root):
            raise OSError(errno.EACCES, f"it leads out of the folder, to {path}")
    # Non-blocking, because opening a pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        check_regular(os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(mode: int) -> None:
    """Checks by its mode that a file is a regular file.

    Raises:
        OSError: if it is not; names its kind.
    """
    if not S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"it is not a regular file but {kind}")


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Checks that a file is not larger than a limit.

    Raises:
        OSError: if it is larger.
    """
    if size_bytes > max_bytes:
        raise OSError(errno.EFBIG, f"it has {size_bytes} bytes, over the limit of {max_bytes}")


def write_atomically(
    path: Path, content: bytes | memoryview | str, *, durable: bool = True
) -> None:
    """Writes a file through a temporary one beside it, so that readers never see a part of it.

    A new file has the mode that the process's umask allows; a replaced file keeps its mode. A link
    is replaced without a change of its target. Pipes and devices are refused.

    Args:
        path: path of the file; its folder is created if it does not exist.
        content: content of the file; text is written as UTF-8.
        durable: whether to wait until the file survives a power failure. Readers that check the
            content by a checksum do not need this.

    Raises:
        ExecutionError: if the file cannot be written; names it. No temporary file remains.
    """
    with writing(str(path)):
        data = content.encode() if isinstance(content, str) else content
        replace_file(path, [data], durable=durable)


def replace_file(path: Path, parts: Iterable[bytes | memoryview], *, durable: bool) -> None:
    """Writes a file from its parts as `write_atomically` does, but raises the original error.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = _mode_to_keep(path)
    temporary = path.with_name(f"{PARTIAL_PREFIX}{token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # Created with all permissions, from which the umask removes some.
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as stream:
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
            for part in parts:
                stream.write(part)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
    # Any exception, because Ctrl-C can interrupt this as well.
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_not_input(output: Path, inputs: Mapping[str, Path | None]) -> None:
    """Checks that an output would not overwrite one of its inputs.

    Args:
        output: path of the file to write.
        inputs: paths of the inputs, by the name that messages use.

    Raises:
        ConfigError: if it would; names the input.
    """
    for name, path in inputs.items():
        if path is not None and is_same_file(path, output):
            raise ConfigError(
                f"{output} is {name}, and would be overwritten", "choose another output file"
            )


def is_same_file(one: Path, other: Path) -> bool:
    """Returns whether two paths lead to the same file, which need not exist."""
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def user_cache_folder() -> Path:
    """Returns a writable cache folder.

    This is the user's cache folder if there is one. Otherwise, for example in a container whose
    user has no home, it is a private folder that this process shares with those that it starts. It
    is removed when this process ends, and a warning is logged.
    """
    try:
        folder = Path(platformdirs.user_cache_dir("distributed_pose"))
        folder.mkdir(parents=True, exist_ok=True)
    # A RuntimeError is raised for a user without a home.
    except (OSError, RuntimeError) as error:
        return _temporary_cache(one_line(error))
    return folder if os.access(folder, os.W_OK) else _temporary_cache(f"{folder} is read-only")


def _temporary_cache(reason: str) -> Path:
    base = tempfile.mkdtemp(prefix="distributed_pose-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = base
    _LOG.warning(
        "no cache can be kept for the next run, which will take a minute longer: %s "
        "(set XDG_CACHE_HOME to a writable folder)",
        reason,
    )
    folder = Path(base, "distributed_pose")
    folder.mkdir()
    return folder


def content_digest(content: bytes) -> str:
    """Returns a digest that identifies the content, 16 hexadecimal digits.

    It is fast on all processors, but not secure against content that is made to collide.
    """
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def sha256_hex(content: bytes) -> str:
    """Returns the SHA-256 of the content, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def short_digest(content: bytes) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of the content."""
    return sha256_hex(content)[:16]


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Converts an `OSError` in the `with` block to an `ExecutionError` that names the file.

    Raises:
        ExecutionError: if the block raises an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise ExecutionError(f"cannot write {name}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """Returns the message of an exception as one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def _mode_to_keep(path: Path) -> int | None:
    """Returns the permissions of a regular file that is to be replaced, or None if it is new."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    check_regular(mode)
    return S_IMODE(mode) & 0o777
