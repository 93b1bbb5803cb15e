"""The format of a ledger file: a shard's detections as Arrow IPC, all other fields as its metadata.

A file with the right checksum may come from another version or from an attacker, so each field is
checked before anything is counted.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import FailFast, Field

from distributed_pose.data.shards import DETECTIONS
from distributed_pose.files.json_records import Count, Positive, read_record
from distributed_pose.records import STAGES, Damage, DevicePlan, DeviceReady, ShardResult
from distributed_pose.run.ledger import LedgerEntry

_KEY = b"distributed_pose"

_DIGEST = re.compile(r"[0-9a-f]{16}")

_DEVICE_NAME = re.compile(r"[a-z]{1,20}:[0-9]{1,9}(\.[0-9]{1,9})?")

_Ids = Annotated[tuple[Annotated[int, Field(ge=-(2**63), lt=2**63)], ...], FailFast()]
_Texts = Annotated[tuple[str, ...], FailFast()]
_Counts = Annotated[tuple[Count, ...], FailFast()]


@dataclass(frozen=True)
class _Fingerprint:
    fingerprint: Mapping[str, str]


@dataclass(frozen=True)
class _Plan:
    name: str
    kind: str
    node: str
    node_id: str
    cpus: Annotated[float, Field(ge=0, le=1e6)]
    device_id: str
    model: str
    card: str
    share: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class _Device:
    plan: _Plan
    backend: str
    precision: str
    description: str
    batch_size: Positive
    warmup_ns: Count
    batch_ns: Count
    shard_size: Positive
    slots: Positive
    host: str
    versions: Annotated[tuple[tuple[str, str], ...], FailFast()]
    passed_over: _Texts
    compute_ns: Count = 0
    feeders: Positive = 1
    feeder_processes: Count = 0
    batches_in_flight: Positive = 2
    reads_images: bool = False


@dataclass(frozen=True)
class _Result:
    device: str
    image_ids: _Ids
    durations: Mapping[str, _Counts]
    encoded_bytes: _Counts
    damaged: Annotated[tuple[Damage, ...], FailFast()]
    digests: _Texts
    stamps: _Texts


@dataclass(frozen=True)
class _About:
    session: str
    elapsed_ns: Count
    device: _Device
    result: _Result


def pack_entry(entry: LedgerEntry, fingerprint: Mapping[str, str]) -> bytes:
    """Returns the content of the file of an entry.

    Args:
        entry: entry of the ledger.
        fingerprint: digests and settings that the results of the run depend on, by name.
    """
    result = asdict(entry.result)
    # Failures are not kept, because an unreadable image may be available when the run is resumed.
    del result["failures"]
    detections = pa.ipc.read_record_batch(result.pop("detections"), DETECTIONS)
    about = {**asdict(entry), "result": result, "fingerprint": fingerprint}
    schema = DETECTIONS.with_metadata({_KEY: json.dumps(about)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(detections.replace_schema_metadata(schema.metadata))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_entry_file(content: bytes) -> tuple[bytes, pa.RecordBatch]:
    """Returns the metadata of a ledger file as JSON, and the detections.

    The metadata are not checked yet; see `read_fingerprint` and `read_entry`.

    Args:
        content: content of the file.

    Raises:
        ValueError: if the content is not an Arrow file, or not one of a ledger.
    """
    try:
        with pa.ipc.open_file(content) as reader:
            about: bytes = (reader.schema.metadata or {})[_KEY]
            batch = reader.get_batch(0).replace_schema_metadata(None).cast(DETECTIONS)
        # Reading does not check offsets, which can point outside the buffers.
        batch.validate(full=True)
    except (pa.ArrowException, KeyError, OSError, IndexError) as error:
        raise ValueError(str(error)) from None
    return about, batch


def read_fingerprint(about: bytes) -> Mapping[str, str]:
    """Returns the digests and settings that the results of a file's run depend on, by name.

    Args:
        about: metadata of the file as JSON.

    Raises:
        ValueError: if the metadata have no valid fingerprint.
    """
    return read_record(_Fingerprint, about).fingerprint


def read_entry(about: bytes, detections: pa.RecordBatch) -> LedgerEntry:
    """Returns the entry of a file, with all fields checked.

    Args:
        about: metadata of the file as JSON.
        detections: detections of the file, in the schema `data.shards.DETECTIONS`.

    Raises:
        ValueError: if a field is missing or of a wrong type, a number is out of range, an image is
            listed twice, or a detection is in an image that is not listed.
    """
    told = read_record(_About, about)
    device, result = told.device, told.result
    _check(device, result)
    _check_detections(detections, result.image_ids)
    return LedgerEntry(
        session=told.session,
        elapsed_ns=told.elapsed_ns,
        device=DeviceReady(**{**vars(device), "plan": DevicePlan(**vars(device.plan))}),
        result=ShardResult(
            device=result.device,
            image_ids=result.image_ids,
            detections=bytes(detections.serialize()),
            durations=result.durations,
            encoded_bytes=result.encoded_bytes,
            damaged=result.damaged,
            digests=result.digests,
            stamps=result.stamps,
        ),
    )


def _check(device: _Device, result: _Result) -> None:
    if not _DEVICE_NAME.fullmatch(device.plan.name):
        raise ValueError("device.plan.name: no name of a device")
    if len(set(result.image_ids)) != len(result.image_ids):
        raise ValueError("result.image_ids: an image is there twice")
    if len(result.image_ids) != len(result.encoded_bytes):
        raise ValueError("result.encoded_bytes: one is needed for each image")
    if len(result.image_ids) != len(result.digests):
        raise ValueError("result.digests: one is needed for each image")
    if not all(_DIGEST.fullmatch(digest) for digest in result.digests):
        raise ValueError("result.digests: one is no digest")
    if len(result.stamps) not in {0, len(result.image_ids)}:
        raise ValueError("result.stamps: one is needed for each image, or none")
    if not set(result.durations) <= set(STAGES):
        raise ValueError("result.durations: an unknown stage")


def _check_detections(detections: pa.RecordBatch, image_ids: tuple[int, ...]) -> None:
    ids, scores, keypoints = detections.columns
    numbers = keypoints.flatten()
    if any(column.null_count for column in (ids, scores, keypoints, numbers)):
        raise ValueError("detections: a value is missing")
    if not all(
        pc.all(pc.is_finite(column)).as_py() in {True, None} for column in (scores, numbers)
    ):
        raise ValueError("detections: a number is not finite")
    if not set(ids.to_pylist()) <= set(image_ids):
        raise ValueError("detections: one is of another image")
