"""Files that appear whole or not at all, on disks and behind URIs, and what identifies them."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from stat import S_ISREG
from typing import Any

from distributed_pose.errors import ExecutionError, SetupError

# Seconds for which an object store is asked again.
_RETRY_S = 15


class Folder:
    """A folder on a local disk, or behind any URI that a filesystem of pyarrow opens.

    Args:
        location: a path, or a URI such as `s3://bucket/folder`.

    Raises:
        SetupError: if there is no filesystem for the URI.
    """

    def __init__(self, location: str | Path) -> None:
        self._location = str(location)
        self._is_local = "://" not in self._location
        self._filesystem, self._path = filesystem_of(self._location, "--output")

    def __str__(self) -> str:
        return self._location

    def write(self, name: str, content: bytes | str, *, durable: bool = True) -> None:
        """Writes a file, of which readers see all or nothing.

        Args:
            name: relative to the folder.
            content: text is written as UTF-8.
            durable: see `write_atomically`; of no meaning to other filesystems.

        Raises:
            ExecutionError: if it cannot be written; names it.
        """
        if self._is_local:
            write_atomically(Path(self._path, name), content, durable=durable)
            return
        path = f"{self._path}/{name}"
        with _writing(f"{self._location}/{name}"):
            self._filesystem.create_dir(path.rpartition("/")[0])
            # An object store shows an upload when it is closed; of others, checksums tell.
            with self._filesystem.open_output_stream(path) as stream:
                stream.write(content.encode() if isinstance(content, str) else content)

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            OSError: if it cannot be read.
        """
        with self._filesystem.open_input_stream(f"{self._path}/{name}") as stream:
            content: bytes = stream.read()
        return content

    def names(self, within: str) -> list[str]:
        """Returns the files of a folder in this one, sorted, relative to this one.

        Raises:
            SetupError: if it cannot be listed.
        """
        from pyarrow import fs

        selector = fs.FileSelector(f"{self._path}/{within}", allow_not_found=True)
        try:
            found = self._filesystem.get_file_info(selector)
        except OSError as error:
            raise SetupError(f"cannot list {self}/{within}: {_reason(error)}") from None
        return sorted(f"{within}/{info.base_name}" for info in found if info.is_file)

    def delete(self, name: str) -> None:
        """Deletes a file.

        Raises:
            ExecutionError: if it cannot be deleted.
        """
        with _writing(f"{self._location}/{name}"):
            self._filesystem.delete_file(f"{self._path}/{name}")


def filesystem_of(location: str, setting: str) -> tuple[Any, str]:
    """Returns pyarrow's filesystem of a path or a URI, and the path on it.

    Args:
        location: a path, or a URI such as `s3://bucket/folder`.
        setting: that names it, for messages.

    Raises:
        SetupError: if there is no filesystem for the URI.
    """
    # Loaded here, so that help is shown without it.
    import pyarrow as pa
    from pyarrow import fs

    if not location.isascii() and location != location.encode(errors="replace").decode():
        raise SetupError(f"cannot open {location}: its name is not UTF-8", f"see {setting}")
    if "://" not in location:
        return fs.LocalFileSystem(), str(Path(location).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(_with_a_deadline(location))
        if location.startswith("abfs"):
            # Without credentials Arrow ends the process when a file is opened, and not here.
            filesystem.get_file_info(path)
    # Of a scheme whose library is not installed.
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise SetupError(f"cannot open {location}: {_reason(error)}", f"see {setting}") from None
    return filesystem, path


def _with_a_deadline(uri: str) -> str:
    """Returns a URI with which no filesystem tries for more than some seconds."""
    # Google's without credentials tries for a quarter of an hour.
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={_RETRY_S}"


def absolute_location(location: str) -> str:
    """Returns a path or URI as other processes can open it."""
    return location if "://" in location else str(Path(location).absolute())


def read_location(location: str, setting: str) -> bytes:
    """Returns the content of a file at a path or a URI.

    Raises:
        OSError: if it cannot be read.
        SetupError: if it is no regular file, or there is no filesystem for the URI.
    """
    if "://" not in location:
        # Reading a pipe or device may never end, and a run reads the file more than once.
        if not S_ISREG(Path(location).stat().st_mode):
            raise SetupError(f"{location} is no regular file", f"see {setting}")
        return Path(location).read_bytes()
    filesystem, path = filesystem_of(location, setting)
    with filesystem.open_input_stream(path) as stream:
        content: bytes = stream.read()
    return content


def write_atomically(
    path: Path, content: bytes | memoryview | str, *, durable: bool = True
) -> None:
    """Writes a file through a temporary one beside it, so that readers never see a part of it.

    Args:
        path: its folder is made where it is missing.
        content: text is written as UTF-8.
        durable: whether to wait until it outlasts a loss of power. What outlasts the process is
            enough where a checksum tells a whole file from a part.

    Raises:
        ExecutionError: if the file cannot be written; names it. Nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    with _writing(str(path)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
                temporary = Path(stream.name)
                stream.write(data)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        # Not only of the disk: Ctrl-C can come here too.
        except BaseException:
            if temporary:
                temporary.unlink(missing_ok=True)
            raise


def new_run_folder(runs: Path) -> Path:
    """Returns a folder that is not there yet, named by the time, for which nobody gave a name."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = chain([stamp], (f"{stamp}-{number}" for number in count(2)))
    return next(runs / name for name in names if not (runs / name).exists())


def point_latest_at(folder: Path) -> None:
    """Has the link `latest` beside a folder lead to it.

    Raises:
        ExecutionError: if it cannot be made, as where a folder has that name.
    """
    link = folder.parent / "latest"
    temporary = folder.parent / f".latest-{os.getpid()}"
    with _writing(str(link)):
        folder.mkdir(parents=True, exist_ok=True)
        temporary.symlink_to(folder.name)
        try:
            temporary.replace(link)
        except OSError:
            temporary.unlink()
            raise


def sha256_hex(content: bytes) -> str:
    """Returns the SHA-256 of the content, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExecutionError(f"cannot write {name}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())
