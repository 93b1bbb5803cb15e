"""The files of a ledger are read back unchanged, and damaged or foreign files are not used."""

import json
import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_pose import ExecutionError, SetupError
from distributed_pose.data.shards import (
    DETECTIONS,
    no_detections,
    pack_detections,
    unpack_detections,
)
from distributed_pose.devices.kinds import DEVICE_NAME
from distributed_pose.files.local import PARTIAL_PREFIX, sha256_hex
from distributed_pose.files.storage import Folder
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.images import Damage, Failure, ImageRecord
from distributed_pose.records.shards import ShardResult
from distributed_pose.records.stages import STAGES
from distributed_pose.run import ledger_files
from distributed_pose.run.ledger import Ledger, LedgerEntry
from distributed_pose.run.ledger_files import LedgerFiles

T = TypeVar("T")

FINGERPRINT = {"model": "5d41402a", "profile": "modelzoo"}

DEVICE = DeviceReady(
    # With a value in each field, so that none can be lost on the way.
    plan=DevicePlan(
        name="npu:1.1",
        kind="npu",
        node="10.0.0.1",
        node_id="a-node",
        cpus=1.5,
        device_id="1",
        model="310",
        card="0",
        share=0.5,
    ),
    backend="oracle",
    precision="f32",
    description="CPU é",
    batch_size=4,
    warmup_ns=5,
    batch_ns=6,
    slots=2,
    host="a-host",
    versions=(("numpy", "2.1.0"), ("opencv", "4.12.0")),
)


def entry(*image_ids: int, session: str = "first", elapsed_ns: int = 7) -> LedgerEntry:
    number = len(image_ids)
    keypoints = np.arange(51.0 * number).reshape(number, 51) / 7
    poses = Poses(keypoints, np.full(number, 1 / 3))
    result = ShardResult(
        device="cpu:1",
        image_ids=image_ids,
        detections=pack_detections(np.array(image_ids, np.int64), poses),
        failures=(),
        durations={"read": tuple(10 * i for i in image_ids), "compute": (3,), "transfer": ()},
        encoded_bytes=tuple(100 * i for i in image_ids),
        damaged=tuple(Damage(i, f"{i}.jpg", "it is cut é") for i in image_ids[1:]),
        digests=tuple(f"{i:016x}" for i in image_ids),
        stamps=tuple(f"{i} é" for i in image_ids),
    )
    return LedgerEntry(session=session, elapsed_ns=elapsed_ns, device=DEVICE, result=result)


def keep(
    folder: Folder, *entries: LedgerEntry, fingerprint: Mapping[str, str] = FINGERPRINT
) -> None:
    keep_all(folder, entries, fingerprint)


def keep_all(
    folder: Folder, entries: Iterable[LedgerEntry], fingerprint: Mapping[str, str] = FINGERPRINT
) -> None:
    with LedgerFiles(folder, fingerprint) as files:
        for one in entries:
            files.add(one)


class Results:
    """Entries of one image each, and then the end of the run by Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.num_asked = 0

    def __iter__(self) -> Iterator[LedgerEntry]:
        for number in range(10, 10 + self.number):
            self.num_asked += 1
            yield entry(number)
        raise KeyboardInterrupt


def load(folder: Folder, fingerprint: Mapping[str, str] = FINGERPRINT) -> list[LedgerEntry]:
    """Returns what is kept by ascending image id."""
    entries = LedgerFiles(folder, fingerprint).load()
    return sorted(entries, key=lambda one: one.result.image_ids)


def comparable(one: LedgerEntry) -> tuple[LedgerEntry, list[dict[str, object]]]:
    """Returns an entry with its detections apart, which may be serialised in two ways."""
    rows = unpack_detections(one.result.detections)
    return replace(one, result=replace(one.result, detections=b"")), rows


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where the files of `folder` are."""
    return tmp_path / "run" / "ledger"


@pytest.fixture
def release() -> Iterator[Event]:
    """Lets go what hangs, at the latest when the test ends."""
    event = Event()
    yield event
    event.set()


@pytest.mark.parametrize("location", ["{}/run", "file://{}/run", "mock:///run"])
def test_entries_are_read_back_completely(tmp_path: Path, location: str) -> None:
    folder = Folder(location.format(tmp_path))
    entries = [entry(1, 2), entry(3), entry(4, 5, session="second", elapsed_ns=2**60)]
    keep(folder, *entries)
    assert [*map(comparable, load(folder))] == [*map(comparable, entries)]


def test_images_without_people_are_read_back(folder: Folder) -> None:
    one = entry(1, 2)
    empty = replace(one, result=replace(one.result, detections=no_detections()))
    keep(folder, empty)
    assert [*map(comparable, load(folder))] == [comparable(empty)]


FINITE = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.lists(st.integers(0, 2**62), max_size=3).map(tuple)


# Values by type that are valid in each field of the type.
VALUES: Mapping[object, st.SearchStrategy[object]] = {
    str: st.text(),
    int: st.integers(1, 2**31 - 1),
    float: st.floats(0, 1, exclude_min=True),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(st.text(), max_size=2).map(tuple),
    tuple[tuple[str, str], ...]: st.lists(st.tuples(st.text(), st.text()), max_size=2).map(tuple),
}


def drawn(draw: st.DrawFn, kind: type[T], **own: st.SearchStrategy[object]) -> T:
    """Returns a record with a drawn value in each field, so that no default hides a loss.

    Args:
        draw: function that draws a value.
        kind: class of the record, a dataclass.
        own: values of the fields that do not take all values of their type.
    """
    named: Any = fields(kind)  # type: ignore[arg-type]
    return kind(**{f.name: draw(own[f.name] if f.name in own else VALUES[f.type]) for f in named})


@st.composite
def entries(draw: st.DrawFn) -> LedgerEntry:
    ids = draw(st.lists(st.integers(-(2**62), 2**62), unique=True, min_size=1, max_size=4))
    whose = draw(st.lists(st.sampled_from(ids), max_size=3))
    keypoints = np.array([[draw(FINITE)] * 51 for _ in whose]).reshape(-1, 51)
    poses = Poses(keypoints, np.array([draw(FINITE) for _ in whose], np.float64))
    result: dict[str, Any] = {
        "device": draw(st.text()),
        "image_ids": tuple(ids),
        "detections": pack_detections(np.array(whose, np.int64), poses),
        # Failures are not kept.
        "failures": (),
        "durations": draw(st.dictionaries(st.sampled_from(STAGES), TIMES, max_size=2)),
        "encoded_bytes": tuple(draw(st.integers(0, 2**40)) for _ in ids),
        "damaged": tuple(Damage(i, draw(st.text()), draw(st.text())) for i in ids[1:]),
        "digests": tuple(f"{draw(st.integers(0, 2**64 - 1)):016x}" for _ in ids),
        "stamps": tuple(draw(st.text()) for _ in ids),
    }
    # The files do not keep times, which only a trace needs.
    assert [*result, "times"] == [field.name for field in fields(ShardResult)]
    plan = drawn(draw, DevicePlan, name=st.from_regex(DEVICE_NAME, fullmatch=True))
    return LedgerEntry(
        session=draw(st.text()),
        elapsed_ns=draw(st.integers(0, 2**62)),
        begun_s=draw(st.floats(0, 1e12)),
        device=drawn(draw, DeviceReady, plan=st.just(plan)),
        result=ShardResult(**result),
    )


@settings(max_examples=50)
@given(entries(), st.dictionaries(st.text(), st.text()))
def test_no_field_is_lost_or_changed(one: LedgerEntry, fingerprint: dict[str, str]) -> None:
    folder = Folder("mock:///run")
    keep(folder, one, fingerprint=fingerprint)
    (back,) = load(folder, fingerprint)
    # As text, in which 0.0 and -0.0 differ.
    assert repr(comparable(back)) == repr(comparable(one))


def test_a_device_of_a_kind_with_a_digit_in_its_name_comes_back(folder: Folder) -> None:
    plan = replace(DEVICE.plan, name="mi300:1.1", kind="mi300")
    one = replace(entry(1), device=replace(DEVICE, plan=plan))
    keep(folder, one)
    assert [*map(comparable, load(folder))] == [comparable(one)]


def test_a_resumed_ledger_has_the_figures_of_the_first(folder: Folder) -> None:
    images = [ImageRecord(number, f"{number}.jpg", 4, 6) for number in range(1, 5)]
    first, second = Ledger(images), Ledger(images)
    with LedgerFiles(folder, FINGERPRINT) as files:
        for one in (entry(1, 2), entry(2, 3, elapsed_ns=9), entry(3, 1), entry(4, session="two")):
            if new := first.accept(one):
                files.add(new)
    assert len(first.detections) == 4
    for one in load(folder):
        second.accept(one)
    assert [*second.detections] == [*first.detections]
    for name in ("devices", "wall_ns", "num_sessions", "num_settled"):
        assert getattr(second, name) == getattr(first, name)
    for number in range(1, 5):
        assert second.evaluated(number) == first.evaluated(number)
    assert {stage: sorted(times) for stage, times in second.durations.items()} == {
        stage: sorted(times) for stage, times in first.durations.items()
    }


def test_a_session_adds_files_and_leaves_the_others_alone(folder: Folder, ledger: Path) -> None:
    keep(folder, entry(1), entry(2))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in ledger.iterdir()}
    keep(folder, entry(3))
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in ledger.iterdir()}
    assert len(after) == len(before) + 1
    assert before.items() < after.items()


def test_results_that_come_together_share_a_file_and_a_result_alone_is_written_at_once(
    folder: Folder, ledger: Path
) -> None:
    with LedgerFiles(folder, FINGERPRINT) as files:
        files.add(entry(1))
        end = monotonic() + 2
        while not ledger.is_dir() or not [*ledger.glob("*.arrow")]:
            assert monotonic() < end
            sleep(0.01)
        for number in range(2, 300):
            files.add(entry(number))
    assert len([*ledger.iterdir()]) < 30
    assert [one.result.image_ids for one in load(folder)] == [(i,) for i in range(1, 300)]


def test_a_file_has_a_limit_and_the_rest_goes_to_the_next_one(
    folder: Folder, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_files, "_MAX_DETECTION_BYTES", 3000)
    keep(folder, *(entry(number) for number in range(1, 30)))
    assert 5 <= len([*ledger.iterdir()]) <= 29
    assert [one.result.image_ids for one in load(folder)] == [(i,) for i in range(1, 30)]


def test_a_file_has_the_name_of_its_content(folder: Folder, ledger: Path) -> None:
    keep(folder, entry(1))
    (path,) = ledger.iterdir()
    assert path.name == f"{sha256_hex(path.read_bytes())}.arrow"


def test_a_folder_without_a_ledger_has_no_entries(folder: Folder) -> None:
    assert load(folder) == []
    LedgerFiles(folder, FINGERPRINT).clear()


def test_failures_are_not_kept(folder: Folder, ledger: Path) -> None:
    one = entry(1)
    failures = (Failure(2, "2.jpg", "unreadable"),)
    keep(folder, replace(one, result=replace(one.result, failures=failures)))
    assert [*map(comparable, load(folder))] == [comparable(one)]
    (path,) = ledger.iterdir()
    assert b"unreadable" not in path.read_bytes()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(b""),
        lambda path: path.rename(path.with_name("0" * 64 + ".arrow")),
    ],
    ids=["a flipped bit", "a byte less", "the start alone", "a byte more", "empty", "renamed"],
)
def test_a_damaged_file_is_ignored_with_a_warning_and_the_rest_loads(
    folder: Folder, ledger: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    keep(folder, entry(1))
    (victim,) = ledger.iterdir()
    keep(folder, entry(2), entry(3))
    damage(victim)
    assert [one.result.image_ids for one in load(folder)] == [(2,), (3,)]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "is damaged; its images are run again" in warning.getMessage()
    assert str(ledger) in warning.getMessage()


def test_a_file_that_was_not_finished_is_no_part_of_the_ledger(
    folder: Folder, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(folder, entry(1))
    (ledger / f"{PARTIAL_PREFIX}{16 * '0'}").write_bytes(b"a part")
    assert len(load(folder)) == 1
    assert not caplog.records


def of_file(one: Mapping[str, Any], device: object = None) -> dict[str, Any]:
    """Returns the metadata of a file with one entry."""
    devices = [device or asdict(DEVICE)]
    return {"fingerprint": FINGERPRINT, "devices": devices, "entries": [one]}


def about(device: object = None, **values: object) -> dict[str, Any]:
    start = {"session": "first", "elapsed_ns": 7, "device": 0, "num_detections": 0, "result": {}}
    return of_file({**start, **values}, device)


def about_result(num_detections: int = 0, **values: object) -> dict[str, Any]:
    result = {**asdict(entry(1).result), **values}
    kept = {name: result[name] for name in result if name not in {"detections", "failures"}}
    return about(result=kept, num_detections=num_detections)


RESULT = about_result()["entries"][0]["result"]
PLAN = asdict(DEVICE.plan)


def arrow(
    metadata: object,
    schema: pa.Schema = DETECTIONS,
    batches: int = 1,
    rows: Sequence[Sequence[list[Any]]] = (),
) -> bytes:
    """Returns a file like those of a ledger; bytes as metadata are left as they are."""
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata)
    whole = schema.with_metadata({b"distributed_pose": text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, whole) as writer:
        for columns in rows or [[[] for _ in schema]] * batches:
            arrays = [pa.array(v, field.type) for v, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=whole))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def with_wild_offsets() -> bytes:
    """Returns a file whose offsets of a list lead out of it."""
    content = bytearray(arrow(about_result(1), rows=[([1], [0.5], [[7.25] * 51])]))
    offsets = struct.pack("<ii", 0, 51)
    place = content.rindex(offsets)
    content[place : place + 8] = struct.pack("<ii", 0, 2**30)
    return bytes(content)


def put(folder: Folder, content: bytes) -> None:
    folder.write(f"ledger/{sha256_hex(content)}.arrow", content)


def test_the_files_that_follow_are_like_those_of_a_ledger(folder: Folder) -> None:
    put(folder, arrow(about_result()))
    assert [one.result.image_ids for one in load(folder)] == [(1,)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no Arrow file",
        arrow(b"no JSON"),
        arrow(b"\xff\xfe"),
        arrow([]),
        arrow({}),
        arrow({"fingerprint": None}),
        arrow({"fingerprint": "modelzoo"}),
        arrow({"fingerprint": FINGERPRINT}),
        arrow(about(result=None)),
        arrow(about_result(durations=None)),
        arrow(about_result(image_ids=1)),
        arrow(about(device={**asdict(DEVICE), "unknown": 1})),
        arrow(about(device={**asdict(DEVICE), "plan": None})),
        arrow(about_result(), batches=2),
        arrow({**about(result=RESULT), "devices": []}),
        arrow(about(result=RESULT, num_detections=1)),
        arrow(about(result=RESULT), rows=[([1], [0.5], [[1.0] * 51])]),
        arrow({**about(result=RESULT), "entries": None}),
        arrow(about(device={**asdict(DEVICE), "batch_size": 0}, result=RESULT)),
        *(
            arrow(
                about(device={k: v for k, v in asdict(DEVICE).items() if k != name}, result=RESULT)
            )
            for name in ("feeders", "reads_images")
        ),
        arrow(about(device={**asdict(DEVICE), "plan": {**PLAN, "name": "cpu"}}, result=RESULT)),
        arrow(about(device={**asdict(DEVICE), "plan": {**PLAN, "cpus": 1e999}}, result=RESULT)),
        arrow(about(device={**asdict(DEVICE), "versions": [["numpy"]]}, result=RESULT)),
        arrow(about(device={**asdict(DEVICE), "host": None}, result=RESULT)),
        arrow(about(elapsed_ns=-1, result=RESULT)),
        arrow(about(elapsed_ns=10**4000, result=RESULT)),
        arrow(about(elapsed_ns=True, result=RESULT)),
        arrow(about(session=[], result=RESULT)),
        arrow(about_result(image_ids=[1, 1], encoded_bytes=[5, 5])),
        arrow(about_result(image_ids=["1"])),
        arrow(about_result(image_ids=[2**63])),
        arrow(about_result(encoded_bytes=[-1])),
        arrow(about_result(durations={"a stage": [1]})),
        arrow(about_result(durations={"read": [-1]})),
        arrow(about_result(durations={"read": [0.5]})),
        arrow(b"[" * 100_000),
        arrow(about_result(1), rows=[([2], [0.5], [[1.0] * 51])]),
        arrow(about_result(1), rows=[([1], [float("nan")], [[1.0] * 51])]),
        arrow(about_result(1), rows=[([1], [0.5], [[float("inf")] * 51])]),
        arrow(about_result(1), rows=[([1], [0.5], [None])]),
        arrow(about_result(1), rows=[([1], [0.5], [[]])]),
        arrow(about_result(1), rows=[([1], [0.5], [[1.0] * 50])]),
        arrow(about_result(2), rows=[([1, 1], [0.5, 0.5], [[1.0] * 51, [1.0] * 18])]),
        arrow(about_result(1), rows=[([1], [0.5], [[None] * 51])]),
        arrow(about_result(1), rows=[([None], [0.5], [[1.0] * 51])]),
    ],
)
def test_a_file_with_the_right_checksum_and_another_content_is_ignored(
    folder: Folder, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, content)
    keep(folder, entry(2))
    assert [one.result.image_ids for one in load(folder)] == [(2,)]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "content",
    [
        arrow(about_result(), schema=pa.schema([("keypoints", pa.string())])),
        arrow(about_result(encoded_bytes=[])),
        arrow(about_result(digests=[])),
        arrow(about_result(digests=["no digest"])),
        arrow(about_result(stamps=["", "", ""])),
        with_wild_offsets(),
    ],
)
def test_a_file_whose_parts_do_not_fit_together_is_ignored(folder: Folder, content: bytes) -> None:
    put(folder, content)
    ledger = Ledger([ImageRecord(1, "1.jpg", 4, 6)])
    for one in load(folder):
        ledger.accept(one)
    assert ledger.num_settled == 0


def test_the_ledger_of_another_run_is_an_error_that_names_what_differs(folder: Folder) -> None:
    keep(folder, entry(1))
    with pytest.raises(SetupError) as caught:
        load(folder, {**FINGERPRINT, "profile": "upstream"})
    assert "profile is modelzoo there and upstream here" in caught.value.message
    assert str(folder) in caught.value.message
    assert "model is" not in caught.value.message
    assert "--restart" in caught.value.hint


def test_parts_that_only_one_of_two_runs_has_differ(folder: Folder) -> None:
    keep(folder, entry(1), fingerprint={"model": "5d41402a", "old": "1"})
    with pytest.raises(SetupError) as caught:
        load(folder, {"model": "5d41402a", "new": "2"})
    assert "new is unknown there and 2 here; old is 1 there and unknown here" in str(caught.value)


def test_a_file_of_another_version_is_another_run_and_not_damaged(folder: Folder) -> None:
    other = {**about_result(), "device": {"unknown": 1}, "fingerprint": {"code": "0.0.1"}}
    put(folder, arrow(other))
    with pytest.raises(SetupError, match=r"code is 0\.0\.1 there"):
        load(folder)


def test_a_damaged_file_of_another_run_is_only_reported_as_damaged(
    folder: Folder, ledger: Path
) -> None:
    keep(folder, entry(1), fingerprint={"profile": "upstream"})
    (victim,) = ledger.iterdir()
    flip_a_bit(victim)
    assert load(folder) == []


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(
    folder: Folder, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: Folder, name: str, _max_bytes: int) -> bytes:
        raise PermissionError(13, f"may not\nread {name}")

    keep(folder, entry(1))
    monkeypatch.setattr(Folder, "read", read)
    (path,) = ledger.iterdir()
    with pytest.raises(SetupError, match=rf"cannot read {path}: .*may not read"):
        load(folder)


def test_ledger_files_can_be_cleared_and_other_files_stay(folder: Folder, ledger: Path) -> None:
    keep(folder, entry(1), entry(2), fingerprint={"profile": "another"})
    (ledger / f"{PARTIAL_PREFIX}{16 * '0'}").write_bytes(b"a part")
    folder.write("report.json", "{}")
    LedgerFiles(folder, FINGERPRINT).clear()
    assert [*ledger.iterdir()] == []
    assert folder.read("report.json") == b"{}"
    assert load(folder) == []


def test_an_entry_that_cannot_be_written_is_an_error_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(ExecutionError, match=r"cannot write .*taken/ledger"):
        keep(Folder(tmp_path / "taken"), entry(1))


def fail_to_write(*_: object, **__: object) -> None:
    raise ExecutionError("cannot write: no space left")


def test_after_an_error_no_more_is_added_and_earlier_entries_load(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(folder, entry(1), entry(2))
    results = Results(100_000)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", fail_to_write)
        with pytest.raises(ExecutionError, match="no space left"):
            keep_all(folder, results)
    assert results.num_asked < 100_000
    assert [one.result.image_ids for one in load(folder)] == [(1,), (2,)]


def test_after_an_error_nothing_of_the_queue_is_written(
    folder: Folder, release: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def write(_: Folder, name: str, *__: object, **___: object) -> None:
        tried.append(name)
        release.wait(5.0)
        fail_to_write()

    def results() -> Iterator[LedgerEntry]:
        yield from (entry(number) for number in range(50))
        release.set()

    monkeypatch.setattr(Folder, "write", write)
    with pytest.raises(ExecutionError, match="no space left"):
        keep_all(folder, results())
    assert len(tried) == 1


def test_an_error_of_the_run_takes_precedence_over_that_of_its_ledger(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "write", fail_to_write)
    with pytest.raises(KeyboardInterrupt):
        keep_all(folder, Results(1))


def test_added_entries_are_written_when_the_run_ends_with_an_error(folder: Folder) -> None:
    with pytest.raises(KeyboardInterrupt):
        keep_all(folder, Results(20))
    assert len(load(folder)) == 20


def test_a_mistake_in_an_entry_is_raised(folder: Folder) -> None:
    one = entry(1)
    broken = replace(one, result=replace(one.result, detections=b"no batch"))
    with pytest.raises((ValueError, OSError)):
        keep(folder, broken)


def test_a_store_that_hangs_is_an_error_when_the_run_ends(
    folder: Folder, release: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "write", lambda *_, **__: release.wait(5.0))
    monkeypatch.setattr(ledger_files, "_DEADLINE_S", 0.05)
    with pytest.raises(ExecutionError, match=rf"writing to {folder}/ledger takes over"):
        keep(folder, entry(1))


def test_a_store_that_hangs_is_an_error_when_too_much_waits_for_it(
    folder: Folder, release: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "write", lambda *_, **__: release.wait(5.0))
    monkeypatch.setattr(ledger_files, "_DEADLINE_S", 0.2)
    monkeypatch.setattr(ledger_files, "_MAX_WAITING", 2)
    results = Results(20)
    with pytest.raises(ExecutionError, match="takes over"):
        keep_all(folder, results)
    # One to three are being written, two wait, and there is no room for one more.
    assert 4 <= results.num_asked <= 6


def test_a_write_that_hangs_does_not_keep_the_process_from_ending(folder: Folder) -> None:
    with LedgerFiles(folder, FINGERPRINT) as files:
        assert files._thread is not None
        assert files._thread.daemon
