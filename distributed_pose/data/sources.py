"""Where the encoded images of a dataset are read from: a folder, a URI, or packed shards.

Whatever reads images knows them by the file names of the annotation file.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from distributed_pose.errors import SetupError
from distributed_pose.files import filesystem_of

# A hundred times what a photograph takes.
MAX_FILE_BYTES = 2**28

# Of packed images. A worker reads a group whole for the images in it, in as many threads as it has
# shards in flight.
_SUFFIX = ".parquet"
_KEPT_GROUPS = 4
PACKED = pa.schema([("file_name", pa.string()), ("size", pa.int64()), ("encoded", pa.binary())])


class ImageSource(Protocol):
    """Encoded images by file name. Several threads may read at once."""

    @property
    def location(self) -> str:
        """Absolute path or URI, from which another process opens the same images."""

    def read(self, name: str) -> bytes:
        """Returns an image's file.

        Raises:
            OSError: if there is none, or it has over `MAX_FILE_BYTES`.
            ValueError: if no file can have that name.
        """

    def size(self, name: str) -> int | None:
        """Returns the size of an image's file in bytes, None if there is none to be read."""


def open_images(location: str) -> ImageSource:
    """Returns the images at a path or a URI.

    Raises:
        SetupError: if there is no folder, or no filesystem for the URI.
    """
    filesystem, path = filesystem_of(location, "data.images")
    try:
        is_folder = filesystem.get_file_info(path).type == fs.FileType.Directory
        parts = _parts(filesystem, path) if is_folder else []
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SetupError(f"cannot open {location}: {_reason(error)}", "see data.images") from None
    if not is_folder:
        raise SetupError(f"{location} is no folder", "data.images must hold the images")
    if parts:
        return PackedImages(location, filesystem, parts)
    return UriImages(location, filesystem, path) if "://" in location else FolderImages(location)


class FolderImages:
    """Images in a folder of this machine, or of a filesystem that is mounted on it."""

    def __init__(self, folder: str | Path) -> None:
        self.location = str(Path(folder).absolute())
        self._root = os.path.realpath(folder).rstrip("/") + "/"

    def read(self, name: str) -> bytes:
        with os.fdopen(_open_inside(self._root, name), "rb", buffering=0) as stream:
            _check_size(os.fstat(stream.fileno()).st_size)
            return stream.readall()

    def size(self, name: str) -> int | None:
        try:
            descriptor = _open_inside(self._root, name)
        except (OSError, ValueError):
            return None
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


class UriImages:
    """Images behind a URI that a filesystem of pyarrow opens, one object each."""

    def __init__(self, location: str, filesystem: Any, path: str) -> None:
        self.location = location
        self._filesystem = filesystem
        self._path = path.rstrip("/")

    def read(self, name: str) -> bytes:
        with self._filesystem.open_input_file(f"{self._path}/{name}") as stream:
            _check_size(stream.size())
            content: bytes = stream.read()
        return content

    def size(self, name: str) -> int | None:
        try:
            found = self._filesystem.get_file_info(f"{self._path}/{name}")
        except (OSError, ValueError):
            return None
        return int(found.size) if found.type == fs.FileType.File else None


class _Place(NamedTuple):
    part: str
    group: int
    row: int
    size_bytes: int


class PackedImages:
    """Images in Parquet files, in groups of rows that are read together.

    Args:
        location: of the folder.
        filesystem: that it is on.
        parts: paths of the files.
    """

    def __init__(self, location: str, filesystem: Any, parts: Sequence[str]) -> None:
        self.location = location if "://" in location else str(Path(location).absolute())
        self._filesystem = filesystem
        self._parts = parts
        self._group = lru_cache(_KEPT_GROUPS)(self._read_group)

    def read(self, name: str) -> bytes:
        place = self._found(name)
        _check_size(place.size_bytes)
        encoded: bytes = self._group(place.part, place.group)[place.row].as_py()
        return encoded

    def size(self, name: str) -> int | None:
        try:
            return self._found(name).size_bytes
        except OSError:
            return None

    def _found(self, name: str) -> _Place:
        if name not in self._places:
            raise OSError(errno.ENOENT, "no packed image has that name")
        return self._places[name]

    @cached_property
    def _places(self) -> Mapping[str, _Place]:
        """Where each image is, from the columns that tell, which are short."""
        places: dict[str, _Place] = {}
        for part in self._parts:
            with self._opened(part) as file:
                for group in range(file.num_row_groups):
                    columns = file.read_row_group(group, ["file_name", "size"]).to_pydict()
                    rows = zip(columns["file_name"], columns["size"], strict=True)
                    places |= {
                        name: _Place(part, group, row, size)
                        for row, (name, size) in enumerate(rows)
                    }
        return places

    def _read_group(self, part: str, group: int) -> Any:
        with self._opened(part) as file:
            return file.read_row_group(group, ["encoded"]).column(0)

    def _opened(self, part: str) -> Any:
        try:
            file = pq.ParquetFile(self._filesystem.open_input_file(part))
        except pa.ArrowInvalid as error:
            raise OSError(errno.EINVAL, f"{part} is no packed dataset: {_reason(error)}") from None
        if file.schema_arrow.names != PACKED.names:
            raise OSError(errno.EINVAL, f"{part} is no packed dataset: it has other columns")
        return file


def is_packed(filesystem: Any, path: str) -> bool:
    """Returns whether a folder, which need not be there, holds packed images."""
    return bool(_parts(filesystem, path))


def _parts(filesystem: Any, path: str) -> list[str]:
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    files = (info for info in found if info.type == fs.FileType.File)
    return sorted(info.path for info in files if info.base_name.endswith(_SUFFIX))


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"it has {size} bytes, over the limit of {MAX_FILE_BYTES}")


def _open_inside(root: str, name: str) -> int:
    """Returns the descriptor of a regular file in a folder, whose path is resolved."""
    path = root + name
    # To resolve every path would take half as long as to read its file.
    if "/" in name or os.path.islink(path):  # noqa: PTH114
        path = os.path.realpath(path)
        if not path.startswith(root):
            raise OSError(errno.EACCES, f"it leads out of the folder, to {path}")
    # Without waiting, which opening a pipe does until something is written to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
