"""Reads and writes the values of maps in text or binary files.

Array legend: K heatmaps, P PAF channels, H and W map size in cells.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from distributed_pose.errors import SetupError
from distributed_pose.files.local import read_regular, write_atomically

Array = npt.NDArray[np.floating[Any]]

# Ten times the size of the maps of the widest panorama as text.
_MAX_FILE_BYTES = 2**28

# Arrow's CSV reader is four times as fast as NumPy's text reader, and releases the interpreter
# lock.
_ONE_A_LINE = bytes.maketrans(b" \t\r", b"\n\n\n")
_UNQUOTED = csv.ParseOptions(quote_char=False)
_FLOATS = csv.ConvertOptions(column_types={"value": pa.float32()}, null_values=[])


def read_text(path: Path) -> npt.NDArray[np.float32]:
    """Returns the values of a text file, float32, which are separated by blanks or line breaks.

    Raises:
        SetupError: if the file cannot be read, or contains anything but numbers; names the file.
    """
    content = _read(path).translate(_ONE_A_LINE)
    if not content.strip():
        raise SetupError(f"{path} is empty")
    # A single block, because the reader infers another type after a line that exceeds a block.
    column = csv.ReadOptions(column_names=["value"], use_threads=False, block_size=len(content) + 1)
    try:
        table = csv.read_csv(pa.BufferReader(content), column, _UNQUOTED, _FLOATS)
    except pa.ArrowInvalid as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise SetupError(f"{path} does not contain only numbers: {reason}") from None
    return np.asarray(table.column("value").to_numpy(), np.float32)


def read_maps(path: Path, dtype: str, shape: tuple[int, int, int]) -> Array:
    """Returns the values of a file as an array, float32, or float16 from a file of float16.

    Args:
        path: file with the suffix `.txt` or `.bin`.
        dtype: type of the values in a binary file.
        shape: shape of the array.

    Raises:
        SetupError: if the file has another number of values, or one that is not finite; names it.
    """
    expected = int(np.prod(shape))
    if path.suffix == ".txt":
        values: Array = read_text(path)
        size, unit = values.size, "values"
    else:
        content = _read(path)
        size, unit = len(content), "bytes"
        expected *= np.dtype(dtype).itemsize
        values = np.frombuffer(content[: len(content) // 4 * 4], np.dtype(dtype).newbyteorder("<"))
    if size != expected:
        raise SetupError(f"{path} has {size} {unit}, and {list(shape)} maps have {expected}")
    # The sum is one pass over all values, and is not finite if one of them is not.
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise SetupError(f"{path} has values that are not finite numbers")
    return values.reshape(shape)


def write_maps(path: Path, maps_CHW: Array) -> None:
    """Writes maps as float32, little-endian, without a header.

    Raises:
        ExecutionError: if the file cannot be written; names it.
    """
    write_atomically(path, maps_CHW.astype("<f4").tobytes(), durable=False)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from None
