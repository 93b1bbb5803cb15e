"""Files on disks: read without waiting and within a limit, written whole or not at all.

Files that a user names are read by `read_regular`, or `storage.read_location` where the name may
be a URI: neither waits for a pipe, and neither reads more than its caller has room for.
"""

import atexit
import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK
from typing import BinaryIO

import platformdirs

from distributed_pose.errors import ConfigError, ExecutionError

# What a protobuf can hold, and so an ONNX file.
MAX_MODEL_BYTES = 2**31

# Cards, costs and the like, of which a kilobyte is usual.
MAX_CARD_BYTES = 2**20

# Temporary files that a killed process leaves have this in front of 16 hexadecimal digits.
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
    """Returns the content of a regular file on a disk, without waiting and without running on.

    Args:
        path: of the file; links are followed.
        max_bytes: that it may have.

    Raises:
        OSError: if it cannot be read, is a pipe, device, socket or folder, or is too large. Its
            `strerror` says which.
    """
    with _opened_regular(path) as stream:
        status = os.fstat(stream.fileno())
        check_size(status.st_size, max_bytes)
        # One byte more tells a file that grows, or one of /proc, which has no size.
        parts = [stream.read(status.st_size + 1) or b""]
        size = len(parts[0])
        while status.st_size < size <= max_bytes and (part := stream.read(_CHUNK_BYTES)):
            parts.append(part)
            size += len(part)
    check_size(size, max_bytes)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_head(path: Path | str, num_bytes: int) -> bytes:
    """Returns the first bytes of a regular file, as `read_regular` does; fewer of a shorter file.

    Raises:
        OSError: if it cannot be read, or is a pipe, device, socket or folder.
    """
    with _opened_regular(path) as stream:
        return stream.read(num_bytes)


@contextmanager
def _opened_regular(path: Path | str) -> Iterator[BinaryIO]:
    # Looked at before it is opened, since opening a device can do something to it.
    check_regular(os.stat(path).st_mode)  # noqa: PTH116 - a str is as good
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as stream:
        check_regular(os.fstat(descriptor).st_mode)
        yield stream


def check_regular(mode: int) -> None:
    """Checks that a file is a regular one, by its mode.

    Raises:
        OSError: if it is not; says what it is.
    """
    if not S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"it is no regular file but {kind}")


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Checks that a file is not too large.

    Raises:
        OSError: if it is.
    """
    if size_bytes > max_bytes:
        raise OSError(errno.EFBIG, f"it has {size_bytes} bytes, over the limit of {max_bytes}")


def write_atomically(
    path: Path, content: bytes | memoryview | str, *, durable: bool = True
) -> None:
    """Writes a file through a temporary one beside it, so that readers never see a part of it.

    A new file gets the mode that the process's umask leaves; one that is replaced keeps its mode. A
    link is replaced, and what it leads to stays. Pipes and devices are refused.

    Args:
        path: its folder is made where it is missing.
        content: text is written as UTF-8.
        durable: whether to wait until it outlasts a loss of power. What outlasts the process is
            enough where a checksum tells a whole file from a part.

    Raises:
        ExecutionError: if the file cannot be written; names it. Nothing is left behind.
    """
    with writing(str(path)):
        data = content.encode() if isinstance(content, str) else content
        replace_file(path, data, durable=durable)


def replace_file(path: Path, content: bytes | memoryview, *, durable: bool) -> None:
    """Does what `write_atomically` does.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = _mode_to_keep(path)
    temporary = path.with_name(f"{PARTIAL_PREFIX}{token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # Created with all permissions, of which the umask takes away its own.
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as stream:
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
    # Not only of the disk: Ctrl-C can come here too.
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_not_input(output: Path, inputs: Mapping[str, Path | None]) -> None:
    """Checks that an output is none of the files that it is made from.

    Args:
        output: to be written.
        inputs: by what the user knows them as.

    Raises:
        ConfigError: if it is; names the input.
    """
    for name, path in inputs.items():
        if path is not None and is_same_file(path, output):
            raise ConfigError(f"{output} is {name}, and would be overwritten", "name another file")


def is_same_file(one: Path, other: Path) -> bool:
    """Returns whether two paths lead to the same file, which need not exist."""
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def new_run_folder(runs: Path) -> Path:
    """Returns a folder that has just been made, named by the time; no other run gets the same.

    Raises:
        ExecutionError: if it cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with writing(str(runs)):
        runs.mkdir(parents=True, exist_ok=True)
        names = chain([stamp], (f"{stamp}-{number}" for number in count(2)))
        return next(runs / name for name in names if _makes(runs / name))


def _makes(folder: Path) -> bool:
    """Makes a folder, and returns whether it was not there."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def point_latest_at(folder: Path) -> None:
    """Has the link `latest` beside a folder lead to it.

    Raises:
        ExecutionError: if it cannot be made, as where a folder has that name.
    """
    link = folder.parent / "latest"
    temporary = folder.parent / f".latest-{os.getpid()}"
    with writing(str(link)):
        folder.mkdir(parents=True, exist_ok=True)
        if link.exists() and not link.is_symlink():
            raise OSError(errno.EEXIST, "it is no link")
        temporary.symlink_to(folder.name)
        try:
            temporary.replace(link)
        except OSError:
            temporary.unlink()
            raise


def user_cache_folder() -> Path:
    """Returns the folder for what takes long to make, which can be written.

    It is the user's cache folder where there is one. Otherwise, as in containers whose user has no
    home, it is a private folder that this process and those that it starts share, and that is
    removed when this process ends; a warning says so.
    """
    try:
        folder = Path(platformdirs.user_cache_dir("distributed_pose"))
        folder.mkdir(parents=True, exist_ok=True)
    # Without a home there is no such folder to name.
    except (OSError, RuntimeError) as error:
        return _temporary_cache(one_line(error))
    return folder if os.access(folder, os.W_OK) else _temporary_cache(f"{folder} is read-only")


def _temporary_cache(reason: str) -> Path:
    base = tempfile.mkdtemp(prefix="distributed_pose-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = base
    _LOG.warning(
        "no cache can be kept for the next run, which costs it a minute: %s "
        "(set XDG_CACHE_HOME to a folder that can be written)",
        reason,
    )
    folder = Path(base, "distributed_pose")
    folder.mkdir()
    return folder


def content_digest(content: bytes) -> str:
    """Returns a digest by which other content is known, 16 hexadecimal digits.

    It is fast on all processors, and not meant to withstand content that is made for it.
    """
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def sha256_hex(content: bytes) -> str:
    """Returns the SHA-256 of the content, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turns an `OSError` within into an `ExecutionError` that names the file.

    Raises:
        ExecutionError: if there is one.
    """
    try:
        yield
    except OSError as error:
        raise ExecutionError(f"cannot write {name}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """Returns what an exception says as one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())


def _mode_to_keep(path: Path) -> int | None:
    """Returns the permissions of the regular file that a new one replaces."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    check_regular(mode)
    return S_IMODE(mode) & 0o777
