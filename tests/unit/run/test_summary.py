"""The report of a run sums up the devices of all its sessions."""

from dataclasses import replace

import pytest

from distributed_pose.data.shards import no_detections
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.shards import ShardResult
from distributed_pose.run.inputs import read_inputs
from distributed_pose.run.ledger import Ledger, LedgerEntry
from distributed_pose.run.summary import SessionFacts, summarise
from tests.conftest import Dataset

DEVICE = DeviceReady(
    plan=DevicePlan(name="cpu:0", kind="cpu", node="", node_id="", cpus=2.0),
    backend="oracle",
    precision="f32",
    description="CPU",
    batch_size=4,
    warmup_ns=0,
)


def entry(device: DeviceReady, *image_ids: int, compute_ns: int) -> LedgerEntry:
    result = ShardResult(
        device=device.plan.name,
        image_ids=image_ids,
        detections=no_detections(),
        durations={"compute": (compute_ns,)},
        encoded_bytes=(1,) * len(image_ids),
    )
    session = f"batch {device.batch_size}"
    return LedgerEntry(session=session, elapsed_ns=10, device=device, result=result)


@pytest.mark.parametrize("is_turned", [False, True])
def test_the_rate_of_a_device_that_changed_is_over_all_sessions_in_any_order(
    people: Dataset, *, is_turned: bool
) -> None:
    config = people.config()
    inputs = read_inputs(config)
    ids = [image.image_id for image in inputs.index.images]
    entries = [
        entry(DEVICE, *ids[:3], compute_ns=10**9),
        entry(replace(DEVICE, batch_size=8), *ids[3:], compute_ns=2 * 10**9),
    ]
    ledger = Ledger(inputs.index.images)
    for one in reversed(entries) if is_turned else entries:
        ledger.accept(one)
    report = summarise(config, inputs, ledger, ledger.detections, SessionFacts())
    assert [device.batch_size for device in report.devices] == [4, 8]
    rates = report.throughput.compute_images_per_s
    assert rates == {"cpu:0": len(ids) / 3, "total": len(ids) / 3}
