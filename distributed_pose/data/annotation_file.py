"""Reads the JSON of an annotation file: UTF-8, UTF-16 or UTF-32, with or without gzip."""

import gzip
import io
import json
import zlib

from distributed_pose.data.entries import JsonObject
from distributed_pose.errors import SetupError
from distributed_pose.files.local import sha256_hex
from distributed_pose.files.storage import read_location
from distributed_pose.locations import Location

_SETTING = "data.annotations"

_GZIP = b"\x1f\x8b"

# Four times the size of COCO's largest annotation file, the keypoints of train2017.
_MAX_UNPACKED_BYTES = 2**30


def read_annotation_file(location: Location) -> tuple[JsonObject, str]:
    """Returns the content of an annotation file, and the SHA-256 of the file.

    Args:
        location: path or URI of the file.

    Raises:
        SetupError: if the file cannot be read, or is not a JSON object.
    """
    hint = f"check {_SETTING}"
    try:
        encoded = read_location(location, _SETTING)
        # The parser itself detects the encoding of bytes.
        content = json.loads(_unpacked(encoded, location))
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{location} is not JSON: {error}", hint) from None
    if not isinstance(content, dict):
        raise SetupError(
            f"{location}: is a {type(content).__name__}, not a COCO annotation object", hint
        )
    return content, sha256_hex(encoded)


def _unpacked(content: bytes, location: Location) -> bytes:
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as stream:
            unpacked: bytes = stream.read(_MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SetupError(
            f"{location} is a damaged gzip file: {error}", f"check {_SETTING}"
        ) from None
    if len(unpacked) > _MAX_UNPACKED_BYTES:
        raise SetupError(
            f"{location} unpacks to over {_MAX_UNPACKED_BYTES} bytes",
            "no annotation file is that large",
        )
    return unpacked
