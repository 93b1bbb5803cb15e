"""Reads the encoded images of a dataset from a folder, a URI, or packed Parquet files.

Images are identified by the file names of the annotation file.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import fs

from distributed_pose.data.packed_groups import MAX_FILE_BYTES
from distributed_pose.data.packed_images import PackedImages, packed_parts
from distributed_pose.data.stamps import local_stamp, object_stamp
from distributed_pose.errors import SetupError
from distributed_pose.files.local import check_size, one_line, open_inside
from distributed_pose.files.storage import filesystem_of, is_local
from distributed_pose.locations import Location


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
        parts = packed_parts(filesystem, path) if is_folder else []
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = location.cleaned(one_line(error))
        raise SetupError(f"cannot open {location}: {reason}", "check data.images") from None
    if not is_folder:
        raise SetupError(
            f"{location} is not a folder", "set data.images to the folder of the images"
        )
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
        with os.fdopen(open_inside(self._root, name), "rb", buffering=0) as stream:
            check_size(os.fstat(stream.fileno()).st_size, MAX_FILE_BYTES)
            return stream.readall()

    def size(self, name: str) -> int | None:
        try:
            descriptor = open_inside(self._root, name)
        except (OSError, ValueError):
            return None
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        stamps = {name: local_stamp(self._root + name) for name in names}
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
        stamps = {info.path.removeprefix(f"{self._path}/"): object_stamp(info) for info in infos}
        return {name: stamps[name] for name in names if stamps.get(name)}
