"""Runs that are resumed over images that have changed, or on devices that compute otherwise."""

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from distributed_pose import RunConfig, SetupError
from distributed_pose.config.selection import select
from distributed_pose.data.packing import pack_dataset
from distributed_pose.data.shards import no_detections
from distributed_pose.data.sources import open_images
from distributed_pose.evaluation import evaluate
from distributed_pose.files.storage import Folder
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.images import ImageRecord
from distributed_pose.records.shards import ShardResult
from distributed_pose.run.fingerprint import fingerprint
from distributed_pose.run.inputs import read_inputs
from distributed_pose.run.ledger import Ledger, LedgerEntry
from distributed_pose.run.ledger_files import LedgerFiles
from distributed_pose.run.resume import check_images, check_precisions
from distributed_pose.run.state import RunState
from tests.conftest import Dataset


@pytest.fixture
def mine(people: Dataset, tmp_path: Path) -> Dataset:
    """A copy of the rendered images that a test may change."""
    shutil.copytree(people.images, tmp_path / "images")
    return Dataset(tmp_path / "images", people.annotations)


def begin(config: RunConfig, output: Path) -> None:
    """Begins a run and ends it when half of the images are done."""

    def stop(state: RunState) -> None:
        if state.done >= state.total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config, output, stop)


def files(dataset: Dataset) -> list[Path]:
    return [dataset.images / image.file_name for image in dataset.records()]


def replace_with_other_content(path: Path) -> None:
    """Replaces a file by one of the same size and time."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("read", ["driver", "worker"])
def test_an_image_replaced_by_one_of_the_same_size_is_noticed(
    mine: Dataset, tmp_path: Path, read: str
) -> None:
    config = mine.config(batch_size=1, data={"read": read})
    begin(config, tmp_path / "run")
    first, *_, last = files(mine)
    # What has no result yet may change.
    replace_with_other_content(last)
    replace_with_other_content(first)
    with pytest.raises(SetupError, match=rf"{first.name} has changed since .* other content"):
        evaluate(config, tmp_path / "run")
    assert evaluate(config, tmp_path / "run", restart=True).complete


def test_an_image_of_a_pack_that_was_made_from_others_is_noticed(
    mine: Dataset, tmp_path: Path
) -> None:
    def pack() -> None:
        shutil.rmtree(tmp_path / "pack", ignore_errors=True)
        index = read_inputs(mine.config()).index
        pack_dataset(index, open_images(str(mine.images)), str(tmp_path / "pack"))

    pack()
    config = Dataset(tmp_path / "pack", mine.annotations).config(batch_size=1)
    begin(config, tmp_path / "run")
    replace_with_other_content(files(mine)[0])
    pack()
    with pytest.raises(SetupError, match="other content"):
        evaluate(config, tmp_path / "run")


class Counted:
    """Images whose files are counted as they are read."""

    def __init__(self, location: Path) -> None:
        self._images = open_images(str(location))
        self.location = self._images.location
        self.names: list[str] = []

    def read(self, name: str) -> bytes:
        self.names.append(name)
        return self._images.read(name)

    def size(self, name: str) -> int | None:
        return self._images.size(name)

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        return self._images.stamps(names)


def test_only_files_that_were_written_since_are_read_again(mine: Dataset, tmp_path: Path) -> None:
    config = mine.config(batch_size=1)
    evaluate(config, tmp_path / "run")
    ledger = Ledger(mine.records())
    for entry in LedgerFiles(
        Folder(tmp_path / "run"), fingerprint(config, read_inputs(config))
    ).load():
        ledger.accept(entry)
    counted = Counted(mine.images)
    inputs = replace(read_inputs(config), images=counted)
    check_images(ledger, inputs)
    assert counted.names == []
    touched = files(mine)[3]
    touched.touch()
    check_images(ledger, inputs)
    assert counted.names == [touched.name]


def test_a_restart_deletes_all_results_of_the_earlier_run(mine: Dataset, tmp_path: Path) -> None:
    config = mine.config(batch_size=1)
    evaluate(config, tmp_path / "run")
    (tmp_path / "run" / "mine.txt").write_text("of the user")

    def stop(_: RunState) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config, tmp_path / "run", stop, restart=True)
    left = {
        str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()
    }
    assert left == {"mine.txt", "ledger/files.json", ".lock"}


def ready(kind: str, precision: str) -> DeviceReady:
    return DeviceReady(
        plan=DevicePlan(name=f"{kind}:0", kind=kind, node="", node_id="", cpus=1.0),
        backend="b",
        precision=precision,
        description="d",
        batch_size=1,
        warmup_ns=0,
    )


def ledger_of(*devices: DeviceReady) -> Ledger:
    ledger = Ledger([ImageRecord(number, f"{number}.jpg", 4, 6) for number in range(9)])
    for number, device in enumerate(devices):
        result = ShardResult(
            device=device.plan.name,
            image_ids=(number,),
            detections=no_detections(),
            encoded_bytes=(1,),
        )
        ledger.accept(LedgerEntry(session="first", elapsed_ns=1, device=device, result=result))
    ledger.begin("first", [ready("npu", "f16")])
    return ledger


def test_a_run_is_resumed_only_in_the_precisions_that_it_has(people: Dataset) -> None:
    selection = select(people.config())
    check_precisions(Ledger([]), [ready("cpu", "bf16")], selection)
    check_precisions(ledger_of(ready("cpu", "bf16")), [ready("cuda", "bf16")], selection)
    both = ledger_of(ready("cpu", "bf16"), ready("cuda", "f16"))
    check_precisions(both, [ready("cuda", "f16")], selection)
    with pytest.raises(SetupError, match=r"bf16 \(b on cpu:0\).*f16 \(b on npu:0\).*set precision"):
        check_precisions(ledger_of(ready("cpu", "bf16")), [ready("npu", "f16")], selection)


def test_precisions_that_are_set_for_each_kind_may_differ(people: Dataset) -> None:
    selection = select(
        people.config(cpu={"precision": "f32"}, cuda={"precision": "f16"}, backend="auto")
    )
    check_precisions(ledger_of(ready("cpu", "f32")), [ready("cuda", "f16")], selection)
    with pytest.raises(SetupError):
        check_precisions(ledger_of(ready("cpu", "f32")), [ready("npu", "f16")], selection)
