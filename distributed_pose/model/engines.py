"""TensorRT engines for several batch sizes as one artifact.

An engine is fastest at the batch size that it was made for, so each size that a sweep tries has one
of its own. One engine alone is its ONNX file; several are a ZIP archive of such files.
"""

import io
import zipfile
from collections.abc import Mapping

from distributed_pose.errors import SetupError

_SUFFIX = ".onnx"


def pack_engines(engines: Mapping[int, bytes]) -> bytes:
    """Returns engines as one artifact.

    Args:
        engines: ONNX files by the largest batch that they take.
    """
    if len(engines) == 1:
        return next(iter(engines.values()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for size, content in sorted(engines.items()):
            # A fixed date, so that the same engines are the same artifact.
            archive.writestr(zipfile.ZipInfo(f"{size}{_SUFFIX}"), content)
    return buffer.getvalue()


def unpack_engines(content: bytes, batch_size: int) -> dict[int, bytes]:
    """Returns the engines of an artifact by the largest batch that they take, in ascending order.

    Args:
        content: as `pack_engines` returns it.
        batch_size: largest batch of an artifact that is one engine alone, which does not tell.

    Raises:
        SetupError: if it is an archive of something else.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return {batch_size: content}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            sizes = sorted(int(name.removesuffix(_SUFFIX)) for name in archive.namelist())
            return {size: archive.read(f"{size}{_SUFFIX}") for size in sizes}
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SetupError(
            f"the artifact is not a set of TensorRT engines: {error}", "compile the model again"
        ) from None
