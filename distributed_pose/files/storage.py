"""Writes folders and reads files that a user names by a path or a URI."""

import os
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from distributed_pose.errors import SetupError
from distributed_pose.files.local import (
    check_size,
    is_same_file,
    one_line,
    read_regular,
    replace_file,
    writing,
)
from distributed_pose.locations import Location

# Twice the size of COCO's largest annotation file.
MAX_DOCUMENT_BYTES = 2**30

# Requests to an object store are repeated for this many seconds.
_RETRY_S = 15

# An object store must give its first answer within this many seconds.
_ANSWER_S = 20

# The messages of the clients of S3 and Google after the last repetition.
_NO_ANSWER = ("NETWORK_CONNECTION", "Retry policy exhausted")


class Folder:
    """A folder on a local disk, or behind any URI that a filesystem of pyarrow opens.

    Args:
        location: a path, or a URI such as `s3://bucket/folder`.

    Raises:
        SetupError: if no filesystem supports the URI.
    """

    def __init__(self, location: str | Path | Location) -> None:
        self.location = Location(location)
        self._filesystem, self._path = filesystem_of(self.location, "--output")
        self._is_local = is_local(self._filesystem)

    def __str__(self) -> str:
        return str(self.location)

    def at(self, name: str) -> Location:
        """Returns the location of a file of the folder."""
        return self.location.within(name)

    def write(self, name: str, content: bytes | str, *, durable: bool = True) -> None:
        """Writes a file atomically.

        Args:
            name: path of the file relative to the folder.
            content: content of the file; text is written as UTF-8.
            durable: see `write_atomically`; only used on a local disk.

        Raises:
            ExecutionError: if the file cannot be written; names it.
        """
        self.write_parts(name, [content], durable=durable)

    def write_parts(self, name: str, parts: Iterable[bytes | str], *, durable: bool = True) -> None:
        """Writes a file from its parts in order, without holding all of them; see `write`."""
        data = (part.encode() if isinstance(part, str) else part for part in parts)
        path = f"{self._path}/{name}"
        with writing(str(self.at(name))):
            if self._is_local:
                replace_file(Path(path), data, durable=durable)
                return
            self._filesystem.create_dir(path.rpartition("/")[0])
            # An object appears only when its upload is closed. On other filesystems, readers
            # detect an incomplete file by its checksum.
            with self._filesystem.open_output_stream(path) as stream:
                for part in data:
                    stream.write(part)

    def read(self, name: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
        """Returns the content of a file.

        Raises:
            OSError: if it cannot be read, is not a regular file, or is larger than `max_bytes`.
        """
        return _read(self._filesystem, f"{self._path}/{name}", max_bytes)

    def names(self, within: str) -> list[str]:
        """Returns the files of a subfolder, sorted, with paths relative to this folder.

        Only regular files are listed, without links.

        Raises:
            SetupError: if the subfolder cannot be listed.
        """
        try:
            names = self._list(f"{self._path}/{within}")
        except OSError as error:
            raise SetupError(f"cannot list {self.at(within)}: {one_line(error)}") from None
        return sorted(f"{within}/{name}" for name in names)

    def is_empty(self) -> bool:
        """Returns whether the folder is empty or does not exist.

        Raises:
            SetupError: if it cannot be listed.
        """
        from pyarrow import fs

        selector = fs.FileSelector(self._path, allow_not_found=True)
        try:
            return not self._filesystem.get_file_info(selector)
        except OSError as error:
            raise SetupError(f"cannot list {self}: {one_line(error)}") from None

    @property
    def local_path(self) -> Path | None:
        """Path of the folder on a disk of this machine; None if it is elsewhere."""
        return Path(self._path) if self._is_local else None

    def has(self, name: str) -> bool:
        """Returns whether the folder has an entry of that name, which may be a broken link.

        Raises:
            SetupError: if the folder cannot be accessed.
        """
        path = f"{self._path}/{name}"
        try:
            return os.path.lexists(path) if self._is_local else self._has_object(path)
        except OSError as error:
            raise SetupError(f"cannot open {self.at(name)}: {one_line(error)}") from None

    def is_link(self, name: str) -> bool:
        """Returns whether the entry of that name is a symbolic link."""
        return self._is_local and Path(self._path, name).is_symlink()

    def is_at(self, name: str, location: Path | Location) -> bool:
        """Returns whether a location is that of the named file in this folder."""
        filesystem, path = filesystem_of(Location(location), "--output")
        if not self._is_local or not is_local(filesystem):
            return type(filesystem) is type(self._filesystem) and path == f"{self._path}/{name}"
        return is_same_file(Path(path), Path(self._path, name))

    def delete(self, name: str) -> None:
        """Deletes a file, or a link but not its target.

        Raises:
            ExecutionError: if it cannot be deleted.
        """
        with writing(str(self.at(name))):
            self._filesystem.delete_file(f"{self._path}/{name}")

    def _list(self, path: str) -> list[str]:
        if self._is_local:
            try:
                with os.scandir(path) as entries:
                    return [e.name for e in entries if e.is_file(follow_symlinks=False)]
            except FileNotFoundError:
                return []
        from pyarrow import fs

        selector = fs.FileSelector(path, allow_not_found=True)
        entries = self._filesystem.get_file_info(selector)
        return [info.base_name for info in entries if info.is_file]

    def _has_object(self, path: str) -> bool:
        from pyarrow import fs

        return bool(self._filesystem.get_file_info(path).type != fs.FileType.NotFound)


def filesystem_of(location: str | Location, setting: str) -> tuple[Any, str]:
    """Returns pyarrow's filesystem of a path or a URI, and the path on it.

    Args:
        location: a path, or a URI such as `s3://bucket/folder`.
        setting: configuration key or option of the location, for messages.

    Raises:
        SetupError: if no filesystem supports the URI.
    """
    # Imported here, so that commands can show their help without loading Arrow.
    import pyarrow as pa
    from pyarrow import fs

    location = Location(location)
    if location.plain != location.plain.encode(errors="replace").decode():
        raise SetupError(f"cannot open {location}: its name is not UTF-8", f"check {setting}")
    if not location.is_uri:
        return fs.LocalFileSystem(), str(Path(location.plain).absolute())
    if location.lacks_credentials:
        raise SetupError(
            f"{location} has had its credentials removed, as in every file of a run",
            f"give {setting} with its credentials, or without '***' if the environment has them",
        )
    try:
        filesystem, path = fs.FileSystem.from_uri(_with_a_deadline(location.plain))
        if not is_local(filesystem):
            _check_answers(filesystem, path, is_strict=location.plain.startswith("abfs"))
    # ImportError is raised for a scheme whose library is not installed.
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        reason = location.cleaned(one_line(error))
        raise SetupError(f"cannot open {location}: {reason}", f"check {setting}") from None
    return filesystem, path


def _with_a_deadline(uri: str) -> str:
    """Returns a URI with a limit on the time for which requests are repeated."""
    # Google's filesystem without credentials repeats them for a quarter of an hour.
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={_RETRY_S}"


def _check_answers(filesystem: Any, path: str, *, is_strict: bool) -> None:
    """Asks the store behind a URI whether a path exists, and waits for any answer.

    Args:
        filesystem: filesystem of the URI.
        path: path on the filesystem.
        is_strict: whether every error counts. Azure's filesystem without credentials ends the
            process when a file is opened, and raises here.

    Raises:
        OSError: if there is no answer in time.
    """
    answers: Queue[Exception | None] = Queue()

    def ask() -> None:
        try:
            filesystem.get_file_info(path)
        except Exception as error:  # noqa: BLE001 - it is raised in the other thread
            answers.put(error)
        else:
            answers.put(None)

    # Clients retry an address that drops all packets for minutes, and have no option against it.
    Thread(target=ask, name="storage", daemon=True).start()
    try:
        error = answers.get(timeout=_ANSWER_S)
    except Empty:
        raise OSError(f"no answer within {_ANSWER_S} s") from None
    if error and (is_strict or any(word in str(error) for word in _NO_ANSWER)):
        raise error


def is_local(filesystem: Any) -> bool:
    """Returns whether a filesystem is that of this machine, for a path or a `file://` URI."""
    from pyarrow import fs

    return isinstance(filesystem, fs.LocalFileSystem)


def read_location(
    location: str | Path | Location, setting: str, max_bytes: int = MAX_DOCUMENT_BYTES
) -> bytes:
    """Returns the content of a file at a path or a URI.

    Args:
        location: path or URI of the file.
        setting: configuration key or option of the location, for messages.
        max_bytes: maximum size of the file.

    Raises:
        SetupError: if the file cannot be read, is not a regular file or is too large, or if no
            filesystem supports the URI.
    """
    location = Location(location)
    filesystem, path = filesystem_of(location, setting)
    try:
        return _read(filesystem, path, max_bytes)
    except (OSError, ValueError) as error:
        reason = location.cleaned(one_line(error))
        raise SetupError(f"cannot read {location}: {reason}", f"check {setting}") from None


def _read(filesystem: Any, path: str, max_bytes: int) -> bytes:
    if is_local(filesystem):
        return read_regular(path, max_bytes)
    # Not opened as a stream, which would decompress files with the suffix of a compressed format.
    with filesystem.open_input_file(path) as stream:
        check_size(stream.size(), max_bytes)
        content: bytes = stream.read(stream.size())
    return content
