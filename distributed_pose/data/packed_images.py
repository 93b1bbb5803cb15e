"""Reads encoded images from packed Parquet files, which `packing` writes."""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from distributed_pose.data.packed_groups import MAX_FILE_BYTES, group_images, names_and_sizes
from distributed_pose.data.stamps import local_stamp, object_stamp
from distributed_pose.files.local import check_size, one_line, open_inside
from distributed_pose.files.storage import is_local
from distributed_pose.locations import Location

# A worker reads complete row groups, in one thread per shard in flight.
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


class _Position(NamedTuple):
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
        position = self._position(name)
        check_size(position.size_bytes, MAX_FILE_BYTES)
        group = self._group(position.part, position.group)
        encoded = group[position.row].as_py() if position.row < len(group) else None
        if not isinstance(encoded, bytes) or len(encoded) != position.size_bytes:
            raise OSError(errno.EINVAL, f"{position.part} has no image of that size there")
        return encoded

    def size(self, name: str) -> int | None:
        try:
            return self._position(name).size_bytes
        except OSError:
            return None

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        try:
            parts = self._part_stamps()
            stamps = {
                name: parts[self._positions[name].part] for name in names & self._positions.keys()
            }
        except OSError:
            return {}
        return {name: stamp for name, stamp in stamps.items() if stamp}

    def _part_stamps(self) -> dict[str, str]:
        if is_local(self._filesystem):
            return {part: local_stamp(part) for part in self._parts}
        infos = self._filesystem.get_file_info([*self._parts])
        return dict(zip(self._parts, map(object_stamp, infos), strict=True))

    def _position(self, name: str) -> _Position:
        if name not in self._positions:
            raise OSError(errno.ENOENT, "no packed image has that name")
        return self._positions[name]

    @cached_property
    def _positions(self) -> Mapping[str, _Position]:
        """The position of each image, from the two short columns of the files."""
        positions: dict[str, _Position] = {}
        for part in self._parts:
            with _opened(self._filesystem, part, ["file_name"]) as file:
                for group in range(file.num_row_groups):
                    rows = zip(*names_and_sizes(file, part, group), strict=True)
                    positions |= {
                        name: _Position(part, group, row, size)
                        for row, (name, size) in enumerate(rows)
                        if name is not None and size is not None
                    }
        return positions

    def _group(self, part: str, group: int) -> Any:
        # Threads that need the same group wait until one of them has read it.
        with self._turns[part, group]:
            return self._cached_group(part, group)

    def _read_group(self, part: str, group: int) -> Any:
        with _opened(self._filesystem, part) as file:
            return group_images(file, part, group)


def packed_parts(filesystem: Any, path: str) -> list[str]:
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
        os.close(open_inside(os.path.realpath(folder).rstrip("/") + "/", name))
    try:
        stream = filesystem.open_input_file(part)
        return pq.ParquetFile(stream, read_dictionary=dictionary_columns)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise OSError(errno.EINVAL, f"{part} is not a packed dataset: {one_line(error)}") from None
