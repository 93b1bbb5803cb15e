"""Groups of rows of packed images, read so that they take no more memory than their file is worth.

Compression and dictionaries can make gigabytes of a few kilobytes. What a file says of its columns
is checked before they are read; pages that are larger than the file says are not found out.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distributed_pose.files import one_line

# Of one image: a hundred times what a photograph takes.
MAX_FILE_BYTES = 2**28

# Of a column of a group: a large image, and what compression can have done to images.
_MAX_GROUP_BYTES = MAX_FILE_BYTES + 2**20
_LEAST_GROUP_BYTES = 2**26
_MAX_UNPACKING = 16
_ROWS_AT_A_TIME = 16

_MAX_NAME_BYTES = 4096


def names_and_sizes(file: Any, part: str, group: int) -> tuple[list[Any], list[Any]]:
    """Returns the columns `file_name` and `size` of a group of rows.

    Args:
        file: that keeps the values of `file_name` once.
        part: path of it, for messages.
        group: number of it in the file.

    Raises:
        OSError: if it is damaged, or larger than names and sizes are.
    """
    _column_bytes(file, part, group, "size")
    _column_bytes(file, part, group, "file_name")
    with _reading(part):
        names, sizes = file.read_row_group(group, ["file_name", "size"]).select([0, 1])
        lengths = [pc.max(pc.binary_length(chunk.dictionary)).as_py() for chunk in names.chunks]
    # Of each name once, before there is one for every row.
    if max((length or 0 for length in lengths), default=0) > _MAX_NAME_BYTES:
        raise OSError(errno.EINVAL, f"{part} has names of over {_MAX_NAME_BYTES} bytes")
    return names.to_pylist(), sizes.to_pylist()


def group_images(file: Any, part: str, group: int) -> Any:
    """Returns the column `encoded` of a group of rows, as Arrow's chunked array.

    Args:
        file: of packed images.
        part: path of it, for messages.
        group: number of it in the file.

    Raises:
        OSError: if it is damaged, or holds more than images in a file of its size.
    """
    left, size = _column_bytes(file, part, group, "encoded")
    # All rows may share one value, so that they have together up to `size` bytes each.
    rows = max(1, min(_ROWS_AT_A_TIME, _LEAST_GROUP_BYTES // max(1, size)))
    with _reading(part):
        if file.metadata.row_group(group).num_rows <= rows:
            return file.read_row_group(group, ["encoded"]).column(0)
        chunks = []
        for batch in file.iter_batches(rows, [group], ["encoded"]):
            left -= batch.nbytes
            if left < 0:
                raise OSError(errno.EFBIG, f"{part} has more bytes of images than it says")
            chunks.append(batch.column(0))
        return pa.chunked_array(chunks)


def _column_bytes(file: Any, part: str, group: int, name: str) -> tuple[int, int]:
    """Returns how many bytes a column of a group may have, and how many it says that it has.

    Raises:
        OSError: if the second are more.
    """
    with _reading(part):
        columns = file.metadata.row_group(group)
        found = map(columns.column, range(columns.num_columns))
        column = next(one for one in found if one.path_in_schema == name)
    packed = max(0, int(column.total_compressed_size))
    most = min(_LEAST_GROUP_BYTES + _MAX_UNPACKING * packed, _MAX_GROUP_BYTES)
    size = int(column.total_uncompressed_size)
    if size > most:
        raise OSError(
            errno.EFBIG,
            f"{part} has {size} bytes of column {name} in a group of "
            f"rows, over the limit of {most} for its compressed size",
        )
    return most, size


@contextmanager
def _reading(part: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, StopIteration) as error:
        raise OSError(errno.EINVAL, f"{part} is damaged: {one_line(error)}") from None
