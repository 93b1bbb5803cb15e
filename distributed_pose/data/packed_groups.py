"""Reads row groups of packed images, with limits on the memory that a file can make them take.

Compression and dictionaries can turn a few kilobytes into gigabytes. The sizes that a file states
for its columns are checked before they are read; pages larger than stated are not detected.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distributed_pose.files.local import one_line

# The limit for one image: a hundred times the size of a photograph.
MAX_FILE_BYTES = 2**28

# The limits for a column of a row group: one large image, or what compressed images can unpack to.
_MAX_GROUP_BYTES = MAX_FILE_BYTES + 2**20
_LEAST_GROUP_BYTES = 2**26
_MAX_UNPACKING = 16
_ROWS_AT_A_TIME = 16

_MAX_NAME_BYTES = 4096


def names_and_sizes(file: Any, part: str, group: int) -> tuple[list[Any], list[Any]]:
    """Returns the columns `file_name` and `size` of a row group.

    Args:
        file: Parquet file, opened with `file_name` as a dictionary.
        part: path of the file, for messages.
        group: number of the row group in the file.

    Raises:
        OSError: if the row group is damaged, or too large for names and sizes.
    """
    _column_bytes(file, part, group, "size")
    _column_bytes(file, part, group, "file_name")
    with _reading(part):
        names, sizes = file.read_row_group(group, ["file_name", "size"]).select([0, 1])
        lengths = [pc.max(pc.binary_length(chunk.dictionary)).as_py() for chunk in names.chunks]
    # The dictionary has each name once, before one is created for every row.
    if max((length or 0 for length in lengths), default=0) > _MAX_NAME_BYTES:
        raise OSError(errno.EINVAL, f"{part} has names of over {_MAX_NAME_BYTES} bytes")
    return names.to_pylist(), sizes.to_pylist()


def group_images(file: Any, part: str, group: int) -> Any:
    """Returns the column `encoded` of a row group, as a chunked array of Arrow.

    Args:
        file: Parquet file of packed images.
        part: path of the file, for messages.
        group: number of the row group in the file.

    Raises:
        OSError: if the row group is damaged, or larger than images in a file of its size can be.
    """
    left, size = _column_bytes(file, part, group, "encoded")
    # All rows may share one value, so each row may have up to `size` bytes.
    rows = max(1, min(_ROWS_AT_A_TIME, _LEAST_GROUP_BYTES // max(1, size)))
    with _reading(part):
        if file.metadata.row_group(group).num_rows <= rows:
            return file.read_row_group(group, ["encoded"]).column(0)
        chunks = []
        for batch in file.iter_batches(rows, [group], ["encoded"]):
            left -= batch.nbytes
            if left < 0:
                raise OSError(errno.EFBIG, f"{part} has more bytes of images than it states")
            chunks.append(batch.column(0))
        return pa.chunked_array(chunks)


def _column_bytes(file: Any, part: str, group: int, name: str) -> tuple[int, int]:
    """Returns the limit for the bytes of a column of a row group, and the stated number of bytes.

    Raises:
        OSError: if the stated number is over the limit.
    """
    with _reading(part):
        columns = file.metadata.row_group(group)
        candidates = map(columns.column, range(columns.num_columns))
        column = next(one for one in candidates if one.path_in_schema == name)
    packed = max(0, int(column.total_compressed_size))
    most = min(_LEAST_GROUP_BYTES + _MAX_UNPACKING * packed, _MAX_GROUP_BYTES)
    size = int(column.total_uncompressed_size)
    if size > most:
        raise OSError(
            errno.EFBIG,
            f"{part} has {size} bytes of column {name} in a row group, over the limit of {most} "
            "for its compressed size",
        )
    return most, size


@contextmanager
def _reading(part: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, StopIteration) as error:
        raise OSError(errno.EINVAL, f"{part} is damaged: {one_line(error)}") from None
