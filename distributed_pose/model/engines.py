"""Packs TensorRT engines for several batch sizes into one artifact, and unpacks them.

An engine is fastest at the batch size that it was built for, so each size that a sweep tries has an
engine of its own. The artifact of a single engine is its ONNX file; that of several engines is a
ZIP archive of ONNX files.
"""

import io
import zipfile
from collections.abc import Mapping

from distributed_pose.errors import SetupError

_SUFFIX = ".onnx"


def pack_engines(engines: Mapping[int, bytes]) -> bytes:
    """Returns engines as one artifact.

    Args:
        engines: engines as ONNX files, by the largest batch that each takes.
    """
    if len(engines) == 1:
        return next(iter(engines.values()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for size, content in sorted(engines.items()):
            # The date is fixed, so that the same engines always give the same artifact.
            archive.writestr(zipfile.ZipInfo(f"{size}{_SUFFIX}"), content)
    return buffer.getvalue()


def unpack_engines(content: bytes, batch_size: int) -> dict[int, bytes]:
    """Returns the engines of an artifact by the largest batch that each takes, in ascending order.

    Args:
        content: artifact, as `pack_engines` returns it.
        batch_size: largest batch of an artifact with a single engine, which does not state it.

    Raises:
        SetupError: if the content is a ZIP archive of other files, or a damaged one.
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
