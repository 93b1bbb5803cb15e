"""The format of a ledger file: detections of some shards as Arrow IPC, other fields as metadata.

A file with the right checksum may come from another version or from an attacker, so each field is
checked before anything is counted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import FailFast, Field
from pydantic_core import to_json

from distributed_pose.data.shards import DETECTIONS, num_values
from distributed_pose.devices.kinds import DEVICE_NAME
from distributed_pose.files.json_records import Count, Figure, Positive, read_record
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.images import Damage
from distributed_pose.records.shards import ShardResult
from distributed_pose.records.stages import STAGES
from distributed_pose.run.ledger import LedgerEntry

_KEY = b"distributed_pose"

_DIGEST = re.compile(r"[0-9a-f]{16}")

_Ids = Annotated[tuple[Annotated[int, Field(ge=-(2**63), lt=2**63)], ...], FailFast()]
_Texts = Annotated[tuple[str, ...], FailFast()]
_Counts = Annotated[tuple[Count, ...], FailFast()]


@dataclass(frozen=True)
class _Fingerprint:
    fingerprint: Mapping[str, str]


# The next three have the fields of the records, with the ranges of their values.
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
    compute_ns: Count
    feeders: Positive
    feeder_processes: Count
    batches_in_flight: Positive
    reads_images: bool


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
class _Entry:
    session: str
    elapsed_ns: Count
    device: Count
    num_detections: Count
    result: _Result
    # The entries of earlier versions do not have it.
    begun_s: Figure = 0.0


@dataclass(frozen=True)
class _About:
    devices: Annotated[tuple[_Device, ...], FailFast()]
    entries: Annotated[tuple[_Entry, ...], FailFast()]


# Failures are not kept, because an unreadable image may be available when the run is resumed.
_KEPT = tuple(one.name for one in fields(_Result))


def pack_entries(entries: Sequence[LedgerEntry], fingerprint: Mapping[str, str]) -> bytes:
    """Returns the content of a file with some entries.

    Args:
        entries: entries of the ledger.
        fingerprint: digests and settings that the results of the run depend on, by name.
    """
    devices: dict[DeviceReady, int] = {}
    batches = [pa.ipc.read_record_batch(one.result.detections, DETECTIONS) for one in entries]
    about = {
        "fingerprint": fingerprint,
        "entries": [
            {
                "session": entry.session,
                "elapsed_ns": entry.elapsed_ns,
                "device": devices.setdefault(entry.device, len(devices)),
                "num_detections": batch.num_rows,
                "begun_s": entry.begun_s,
                "result": {name: getattr(entry.result, name) for name in _KEPT},
            }
            for entry, batch in zip(entries, batches, strict=True)
        ],
        "devices": [*devices],
    }
    schema = DETECTIONS.with_metadata({_KEY: to_json(about)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_batches(batches).combine_chunks().cast(schema))
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
            batch = _only_batch(reader).replace_schema_metadata(None).cast(DETECTIONS)
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


def read_entries(about: bytes, detections: pa.RecordBatch) -> list[LedgerEntry]:
    """Returns the entries of a file, with all fields checked.

    Args:
        about: metadata of the file as JSON.
        detections: detections of the file, in the schema `data.shards.DETECTIONS`.

    Raises:
        ValueError: if a field is missing or of a wrong type, a number is out of range, an image is
            listed twice in an entry, or a detection is in an image that its entry does not list.
    """
    record = read_record(_About, about)
    _check_numbers(detections)
    devices = [_device(one) for one in record.devices]
    entries, start = [], 0
    for entry in record.entries:
        part = detections.slice(start, entry.num_detections)
        start += entry.num_detections
        _check(entry.result)
        if not entry.device < len(devices):
            raise ValueError("entries.device: the device is not in the list")
        if not set(part.column("image_id").to_pylist()) <= set(entry.result.image_ids):
            raise ValueError("detections: one is in an image that its entry does not list")
        entries.append(_entry(entry, devices[entry.device], part))
    if start != detections.num_rows:
        raise ValueError("entries.num_detections: the sum is not that of the file")
    return entries


def _only_batch(reader: pa.ipc.RecordBatchFileReader) -> pa.RecordBatch:
    if reader.num_record_batches > 1:
        raise IndexError("more than one batch")
    if reader.num_record_batches:
        return reader.get_batch(0)
    return pa.record_batch([[] for _ in reader.schema], schema=reader.schema)


def _entry(entry: _Entry, device: DeviceReady, detections: pa.RecordBatch) -> LedgerEntry:
    kept = {name: getattr(entry.result, name) for name in _KEPT}
    return LedgerEntry(
        session=entry.session,
        elapsed_ns=entry.elapsed_ns,
        begun_s=entry.begun_s,
        device=device,
        result=ShardResult(detections=bytes(detections.serialize()), **kept),
    )


def _device(device: _Device) -> DeviceReady:
    if not DEVICE_NAME.fullmatch(device.plan.name):
        raise ValueError("devices.plan.name: not the name of a device")
    return DeviceReady(**{**vars(device), "plan": DevicePlan(**vars(device.plan))})


def _check(result: _Result) -> None:
    if len(set(result.image_ids)) != len(result.image_ids):
        raise ValueError("result.image_ids: an image is listed twice")
    if len(result.image_ids) != len(result.encoded_bytes):
        raise ValueError("result.encoded_bytes: one is needed for each image")
    if len(result.image_ids) != len(result.digests):
        raise ValueError("result.digests: one is needed for each image")
    if not all(_DIGEST.fullmatch(digest) for digest in result.digests):
        raise ValueError("result.digests: one is not a digest")
    if len(result.stamps) not in {0, len(result.image_ids)}:
        raise ValueError("result.stamps: one is needed for each image, or none")
    if not set(result.durations) <= set(STAGES):
        raise ValueError("result.durations: an unknown stage")


def _check_numbers(detections: pa.RecordBatch) -> None:
    ids, scores, keypoints = detections.columns
    numbers = keypoints.flatten()
    if any(column.null_count for column in (ids, scores, keypoints, numbers)):
        raise ValueError("detections: a value is missing")
    num_values(keypoints)
    if not all(
        pc.all(pc.is_finite(column)).as_py() in {True, None} for column in (scores, numbers)
    ):
        raise ValueError("detections: a number is not finite")
