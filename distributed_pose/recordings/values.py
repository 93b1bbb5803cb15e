"""The values in files of maps, text or binary.

Array legend: K heatmaps, P PAF channels, H and W map size in cells.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from distributed_pose.errors import SetupError
from distributed_pose.files import read_regular, write_atomically

Array = npt.NDArray[np.floating[Any]]

# Ten times what the maps of the widest panorama take as text.
_MAX_FILE_BYTES = 2**28

# Arrow's reader of columns is four times as fast as NumPy's of text, and holds no lock.
_ONE_A_LINE = bytes.maketrans(b" \t\r", b"\n\n\n")
_UNQUOTED = csv.ParseOptions(quote_char=False)
_FLOATS = csv.ConvertOptions(column_types={"value": pa.float32()}, null_values=[])


def read_text(path: Path) -> npt.NDArray[np.float32]:
    """Returns the values of a text file, which stand between blanks or line breaks.

    Raises:
        SetupError: if it cannot be read or has something else in it; names the file.
    """
    content = _read(path).translate(_ONE_A_LINE)
    if not content.strip():
        raise SetupError(f"{path} is empty")
    # In one block: where a line goes beyond one, the rest of the file would be of another type.
    column = csv.ReadOptions(column_names=["value"], use_threads=False, block_size=len(content) + 1)
    try:
        table = csv.read_csv(pa.BufferReader(content), column, _UNQUOTED, _FLOATS)
    except pa.ArrowInvalid as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise SetupError(f"{path} is not numbers alone: {reason}") from None
    return np.asarray(table.column("value").to_numpy(), np.float32)


def read_maps(path: Path, dtype: str, shape: tuple[int, int, int]) -> Array:
    """Returns the finite values of a file as an array, float32 or, of a file in halves, float16.

    Args:
        path: with the suffix `.txt` or `.bin`.
        dtype: of a binary file.
        shape: of the array.

    Raises:
        SetupError: if it has more values or fewer, or one that is no finite number; names it.
    """
    expected = int(np.prod(shape))
    if path.suffix == ".txt":
        values: Array = read_text(path)
        found, unit = values.size, "values"
    else:
        content = _read(path)
        found, unit = len(content), "bytes"
        expected *= np.dtype(dtype).itemsize
        values = np.frombuffer(content[: len(content) // 4 * 4], np.dtype(dtype).newbyteorder("<"))
    if found != expected:
        raise SetupError(f"{path} has {found} {unit}, and {list(shape)} maps have {expected}")
    # A sum meets every value in one pass, and is not finite if one of them is not.
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
