"""Places that a user names by a path or a URI: folders that are written, files that are read."""

import os
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from distributed_pose.errors import SetupError
from distributed_pose.files import (
    check_size,
    is_same_file,
    one_line,
    read_regular,
    replace_file,
    writing,
)
from distributed_pose.locations import Location

# Twice COCO's largest annotation file.
MAX_DOCUMENT_BYTES = 2**30

# Seconds for which an object store is asked again.
_RETRY_S = 15

# Seconds within which it has to give its first answer.
_ANSWER_S = 20

# What the clients of S3 and Google say when they give up.
_NO_ANSWER = ("NETWORK_CONNECTION", "Retry policy exhausted")


class Folder:
    """A folder on a local disk, or behind any URI that a filesystem of pyarrow opens.

    Args:
        location: a path, or a URI such as `s3://bucket/folder`.

    Raises:
        SetupError: if there is no filesystem for the URI.
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
        """Writes a file, of which readers see all or nothing.

        Args:
            name: relative to the folder.
            content: text is written as UTF-8.
            durable: see `write_atomically`; of no meaning to other filesystems.

        Raises:
            ExecutionError: if it cannot be written; names it.
        """
        data = content.encode() if isinstance(content, str) else content
        path = f"{self._path}/{name}"
        with writing(str(self.at(name))):
            if self._is_local:
                replace_file(Path(path), data, durable=durable)
                return
            self._filesystem.create_dir(path.rpartition("/")[0])
            # An object store shows an upload when it is closed; of others, checksums tell.
            with self._filesystem.open_output_stream(path) as stream:
                stream.write(data)

    def read(self, name: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
        """Returns the content of a file.

        Raises:
            OSError: if it cannot be read, is no regular file, or is larger than `max_bytes`.
        """
        return _read(self._filesystem, f"{self._path}/{name}", max_bytes)

    def names(self, within: str) -> list[str]:
        """Returns the files of a folder in this one, sorted, relative to this one.

        Links and what is no regular file are left out.

        Raises:
            SetupError: if it cannot be listed.
        """
        try:
            found = self._list(f"{self._path}/{within}")
        except OSError as error:
            raise SetupError(f"cannot list {self.at(within)}: {one_line(error)}") from None
        return sorted(f"{within}/{name}" for name in found)

    def is_empty(self) -> bool:
        """Returns whether the folder is empty or not there.

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
        """The folder on a disk of this machine; None where it is elsewhere."""
        return Path(self._path) if self._is_local else None

    def has(self, name: str) -> bool:
        """Returns whether there is anything of that name, a link that leads nowhere included.

        Raises:
            SetupError: if it cannot be found out.
        """
        path = f"{self._path}/{name}"
        try:
            return os.path.lexists(path) if self._is_local else self._has_object(path)
        except OSError as error:
            raise SetupError(f"cannot open {self.at(name)}: {one_line(error)}") from None

    def is_link(self, name: str) -> bool:
        """Returns whether something in the folder is a symbolic link."""
        return self._is_local and Path(self._path, name).is_symlink()

    def is_at(self, name: str, location: Path | Location) -> bool:
        """Returns whether a location is that of a file of this folder."""
        filesystem, path = filesystem_of(Location(location), "--output")
        if not self._is_local or not is_local(filesystem):
            return type(filesystem) is type(self._filesystem) and path == f"{self._path}/{name}"
        return is_same_file(Path(path), Path(self._path, name))

    def delete(self, name: str) -> None:
        """Deletes a file; of a link, the link.

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
        found = self._filesystem.get_file_info(selector)
        return [info.base_name for info in found if info.is_file]

    def _has_object(self, path: str) -> bool:
        from pyarrow import fs

        return bool(self._filesystem.get_file_info(path).type != fs.FileType.NotFound)


def filesystem_of(location: str | Location, setting: str) -> tuple[Any, str]:
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

    location = Location(location)
    if location.plain != location.plain.encode(errors="replace").decode():
        raise SetupError(f"cannot open {location}: its name is not UTF-8", f"see {setting}")
    if not location.is_uri:
        return fs.LocalFileSystem(), str(Path(location.plain).absolute())
    if location.lacks_credentials:
        raise SetupError(
            f"{location} has had its credentials removed, as in every file of a run",
            f"give {setting} with them, or without '***' if the environment holds them",
        )
    try:
        filesystem, path = fs.FileSystem.from_uri(_with_a_deadline(location.plain))
        if not is_local(filesystem):
            _check_answers(filesystem, path, is_strict=location.plain.startswith("abfs"))
    # Of a scheme whose library is not installed.
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        reason = location.cleaned(one_line(error))
        raise SetupError(f"cannot open {location}: {reason}", f"see {setting}") from None
    return filesystem, path


def _with_a_deadline(uri: str) -> str:
    """Returns a URI with which no filesystem tries for more than some seconds."""
    # Google's without credentials tries for a quarter of an hour.
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={_RETRY_S}"


def _check_answers(filesystem: Any, path: str, *, is_strict: bool) -> None:
    """Asks what is behind a URI whether a path exists, and waits for any answer.

    Args:
        filesystem: of the URI.
        path: on it.
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

    # Clients try an address that drops all packets for minutes, and cannot be told otherwise.
    Thread(target=ask, name="storage", daemon=True).start()
    try:
        error = answers.get(timeout=_ANSWER_S)
    except Empty:
        raise OSError(f"no answer within {_ANSWER_S} s") from None
    if error and (is_strict or any(word in str(error) for word in _NO_ANSWER)):
        raise error


def is_local(filesystem: Any) -> bool:
    """Returns whether a filesystem is that of this machine, as for a path and a `file://` URI."""
    from pyarrow import fs

    return isinstance(filesystem, fs.LocalFileSystem)


def read_location(
    location: str | Path | Location, setting: str, max_bytes: int = MAX_DOCUMENT_BYTES
) -> bytes:
    """Returns the content of a file at a path or a URI.

    Args:
        location: of the file.
        setting: that names it, for messages.
        max_bytes: that it may have.

    Raises:
        SetupError: if it cannot be read, is no regular file or is too large, or if there is no
            filesystem for the URI.
    """
    location = Location(location)
    filesystem, path = filesystem_of(location, setting)
    try:
        return _read(filesystem, path, max_bytes)
    except (OSError, ValueError) as error:
        reason = location.cleaned(one_line(error))
        raise SetupError(f"cannot read {location}: {reason}", f"see {setting}") from None


def _read(filesystem: Any, path: str, max_bytes: int) -> bytes:
    if is_local(filesystem):
        return read_regular(path, max_bytes)
    # Not as a stream, which would inflate what a suffix says is compressed.
    with filesystem.open_input_file(path) as stream:
        check_size(stream.size(), max_bytes)
        content: bytes = stream.read(stream.size())
    return content
