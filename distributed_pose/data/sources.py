"""Reads the encoded images of a dataset from a folder, a URI, or packed Parquet files.

Images are identified by the file names of the annotation file.
"""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from distributed_pose.data.packed_groups import MAX_FILE_BYTES, group_images, names_and_sizes
from distributed_pose.errors import SetupError
from distributed_pose.files.local import check_regular, check_size, one_line
from distributed_pose.files.storage import filesystem_of, is_local
from distributed_pose.locations import Location

# Packed images. A worker reads complete row groups, in one thread per shard in flight.
_SUFFIX = ".parquet"
_PACKED_NAME = re.compile(r"images-\d{5}\.parquet")
_KEPT_GROUPS = 4
PACKED = pa.schema([("file_name", pa.string()), ("size", pa.int64()), ("encoded", pa.binary())])
# Other writers use wider types for the same values.
_COLUMNS: Mapping[str, Callable[[pa.DataType], bool]] = {
    "file_name": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "size": pa.types.is_integer,
    "encoded": lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
}


class ImageSource(Protocol):
    """Reads encoded images by file name; several threads may use it at once."""

    @property
    def location(self) -> Location:
        """Absolute path or URI, with which another process can open the same images."""

    def read(self, name: str) -> bytes:
        """Returns the content of an image's file.

        Raises:
            OSError: if the file cannot be read, or has over `MAX_FILE_BYTES`.
            ValueError: if no file can have that name.
        """

    def size(self, name: str) -> int | None:
        """Returns the size of an image's file in bytes, or None if it cannot be read."""

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        """Returns a stamp per name that changes when the image's file is written or replaced.

        A stamp consists of size and times of the image's file, or of the packed file that it is
        in; no content is read. Images without a known stamp are omitted.
        """


def open_images(location: str | Location) -> ImageSource:
    """Returns the images at a path or a URI.

    Raises:
        SetupError: if it is not a folder, no filesystem supports the URI, or a file of packed
            images is damaged.
    """
    location = Location(location)
    filesystem, path = filesystem_of(location, "data.images")
    try:
        is_folder = filesystem.get_file_info(path).type == fs.FileType.Directory
        parts = _parts(filesystem, path) if is_folder else []
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = location.cleaned(one_line(error))
        raise SetupError(f"cannot open {location}: {reason}", "see data.images") from None
    if not is_folder:
        raise SetupError(f"{location} is not a folder", "data.images must hold the images")
    if parts:
        return PackedImages(location, filesystem, parts)
    if is_local(filesystem):
        return FolderImages(path, location)
    return UriImages(location, filesystem, path)


class FolderImages:
    """Reads images from a folder on this machine, or on a filesystem that is mounted on it.

    Args:
        folder: path of the folder.
        location: location that the user gave for the folder, if it is a URI.
    """

    def __init__(self, folder: str | Path, location: Location | None = None) -> None:
        self.location = (location or Location(folder)).absolute()
        self._root = os.path.realpath(folder).rstrip("/") + "/"

    def read(self, name: str) -> bytes:
        with os.fdopen(_open_inside(self._root, name), "rb", buffering=0) as stream:
            check_size(os.fstat(stream.fileno()).st_size, MAX_FILE_BYTES)
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

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        stamps = {name: _local_stamp(self._root + name) for name in names}
        return {name: stamp for name, stamp in stamps.items() if stamp}


class UriImages:
    """Reads images from a URI that a filesystem of pyarrow opens, one object per image."""

    def __init__(self, location: Location, filesystem: Any, path: str) -> None:
        self.location = location
        self._filesystem = filesystem
        self._path = path.rstrip("/")

    def read(self, name: str) -> bytes:
        with self._filesystem.open_input_file(f"{self._path}/{name}") as stream:
            check_size(stream.size(), MAX_FILE_BYTES)
            content: bytes = stream.read(stream.size())
        return content

    def size(self, name: str) -> int | None:
        try:
            info = self._filesystem.get_file_info(f"{self._path}/{name}")
        except (OSError, ValueError):
            return None
        return int(info.size) if info.type == fs.FileType.File else None

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        # One request lists a thousand objects, and a request for a single object costs as much.
        folders = {name.rpartition("/")[0] for name in names}
        paths = [f"{self._path}/{one}".rstrip("/") for one in folders]
        selectors = [fs.FileSelector(path, allow_not_found=True) for path in paths]
        try:
            infos = [info for one in selectors for info in self._filesystem.get_file_info(one)]
        except (OSError, ValueError):
            return {}
        stamps = {info.path.removeprefix(f"{self._path}/"): _stamp(info) for info in infos}
        return {name: stamps[name] for name in names if stamps.get(name)}


class _Place(NamedTuple):
    """The position of an image in packed files: file, row group and row."""

    part: str
    group: int
    row: int
    size_bytes: int


class PackedImages:
    """Reads images from Parquet files, one row group at a time.

    Args:
        location: location of the folder.
        filesystem: filesystem of pyarrow that the folder is on.
        parts: paths of the Parquet files.
    """

    def __init__(self, location: Location, filesystem: Any, parts: Sequence[str]) -> None:
        self.location = location.absolute()
        self._filesystem = filesystem
        self._parts = parts
        self._cached_group = lru_cache(_KEPT_GROUPS)(self._read_group)
        self._turns: dict[tuple[str, int], Lock] = defaultdict(Lock)

    def read(self, name: str) -> bytes:
        place = self._place(name)
        check_size(place.size_bytes, MAX_FILE_BYTES)
        group = self._group(place.part, place.group)
        encoded = group[place.row].as_py() if place.row < len(group) else None
        if not isinstance(encoded, bytes) or len(encoded) != place.size_bytes:
            raise OSError(errno.EINVAL, f"{place.part} has no image of that size there")
        return encoded

    def size(self, name: str) -> int | None:
        try:
            return self._place(name).size_bytes
        except OSError:
            return None

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        try:
            parts = self._part_stamps()
            stamps = {name: parts[self._places[name].part] for name in names & self._places.keys()}
        except OSError:
            return {}
        return {name: stamp for name, stamp in stamps.items() if stamp}

    def _part_stamps(self) -> dict[str, str]:
        if is_local(self._filesystem):
            return {part: _local_stamp(part) for part in self._parts}
        infos = self._filesystem.get_file_info([*self._parts])
        return dict(zip(self._parts, map(_stamp, infos), strict=True))

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise OSError(errno.ENOENT, "no packed image has that name")
        return self._places[name]

    @cached_property
    def _places(self) -> Mapping[str, _Place]:
        """The position of each image, from the two short columns of the files."""
        places: dict[str, _Place] = {}
        for part in self._parts:
            with _opened(self._filesystem, part, ["file_name"]) as file:
                for group in range(file.num_row_groups):
                    rows = zip(*names_and_sizes(file, part, group), strict=True)
                    places |= {
                        name: _Place(part, group, row, size)
                        for row, (name, size) in enumerate(rows)
                        if name is not None and size is not None
                    }
        return places

    def _group(self, part: str, group: int) -> Any:
        # Threads that need the same group wait until one of them has read it.
        with self._turns[part, group]:
            return self._cached_group(part, group)

    def _read_group(self, part: str, group: int) -> Any:
        with _opened(self._filesystem, part) as file:
            return group_images(file, part, group)


def _local_stamp(path: str) -> str:
    try:
        stat = os.stat(path)  # noqa: PTH116 - twice as fast, and called once per image
    except (OSError, ValueError):
        return ""
    # `cp -p` sets the time of the content's last change; that of the inode cannot be set.
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _stamp(info: Any) -> str:
    """Returns the stamp of an object, or "" if its filesystem does not record times."""
    return f"{info.size} {info.mtime_ns}" if info.mtime_ns else ""


def _parts(filesystem: Any, path: str) -> list[str]:
    """Returns the files of packed images in a folder, which may hold other Parquet files as well.

    Raises:
        OSError: if a file has the name or the columns of packed images, but cannot be read as such.
    """
    entries = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    files = [info for info in entries if info.type == fs.FileType.File]
    return sorted(
        info.path
        for info in files
        if info.base_name.endswith(_SUFFIX) and _is_part(filesystem, info)
    )


def _is_part(filesystem: Any, info: Any) -> bool:
    try:
        with _opened(filesystem, info.path) as file:
            schema = file.schema_arrow
    except OSError:
        if _PACKED_NAME.fullmatch(info.base_name):
            raise
        return False
    # The index is -1 for a missing column, and for several columns of one name.
    if any(schema.get_field_index(name) < 0 for name in PACKED.names):
        return False
    for name, has_type in _COLUMNS.items():
        kind = schema.field(name).type
        if not has_type(kind.value_type if pa.types.is_dictionary(kind) else kind):
            raise OSError(
                errno.EINVAL,
                f"{info.path} is not a packed dataset: column {name} is of type {kind}",
            )
    return True


def _opened(filesystem: Any, part: str, dictionary_columns: Sequence[str] = ()) -> Any:
    """Returns an open Parquet file; `dictionary_columns` are read with each value once."""
    if is_local(filesystem):
        folder, _, name = part.rpartition("/")
        os.close(_open_inside(os.path.realpath(folder).rstrip("/") + "/", name))
    try:
        stream = filesystem.open_input_file(part)
        return pq.ParquetFile(stream, read_dictionary=dictionary_columns)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise OSError(errno.EINVAL, f"{part} is not a packed dataset: {one_line(error)}") from None


def _open_inside(root: str, name: str) -> int:
    """Returns the descriptor of a regular file in a folder, given the folder's resolved path."""
    path = root + name
    # To resolve the path of a file takes half as long as to read it.
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
