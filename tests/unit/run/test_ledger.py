"""The ledger holds exactly one result or failure per image."""

from collections.abc import Iterable
from dataclasses import fields, replace
from statistics import median
from time import thread_time_ns
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose import ExecutionError
from distributed_pose.data.shards import no_detections, pack_detections, unpack_detections
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.images import Damage, Failure, ImageRecord
from distributed_pose.records.shards import ShardResult
from distributed_pose.run.ledger import (
    DeviceFigures,
    EvaluatedImage,
    Ledger,
    LedgerEntry,
    SessionFigures,
)

# In the order of the run, which need not be that of the ids.
IMAGES = [ImageRecord(number, f"{number}.jpg", 4, 6) for number in (3, 1, 2)]


def device(name: str = "cpu:0", description: str = "CPU") -> DeviceReady:
    return DeviceReady(
        plan=DevicePlan(name=name, kind="cpu", node="", node_id="", cpus=2.0),
        backend="oracle",
        precision="f32",
        description=description,
        batch_size=4,
        warmup_ns=0,
    )


def result(
    *image_ids: int, score: float = 1.0, x: float = 0.0, device: str = "cpu:0"
) -> ShardResult:
    number = len(image_ids)
    poses = Poses(np.full((number, 51), x), np.full(number, score))
    detections = pack_detections(np.array(image_ids, np.int64), poses)
    sizes = tuple(100 * image_id for image_id in image_ids)
    texts = [tuple(form.format(i) for i in image_ids) for form in ("{:016x}", "stamp of {}")]
    digests, stamps = texts
    return ShardResult(
        device=device,
        image_ids=image_ids,
        detections=detections,
        durations={"compute": (5,)},
        encoded_bytes=sizes,
        digests=digests,
        stamps=stamps,
    )


def failed(*image_ids: int, reason: str = "unreadable") -> ShardResult:
    failures = tuple(Failure(number, f"{number}.jpg", reason) for number in image_ids)
    return ShardResult(device="cpu:0", image_ids=(), detections=no_detections(), failures=failures)


def entry(result: ShardResult, session: str = "first", elapsed_ns: int = 1) -> LedgerEntry:
    return LedgerEntry(
        session=session, elapsed_ns=elapsed_ns, device=device(result.device), result=result
    )


def filled(*results: ShardResult, images: Iterable[ImageRecord] = IMAGES) -> Ledger:
    ledger = Ledger([*images])
    for one in results:
        ledger.accept(entry(one))
    return ledger


def scores(ledger: Ledger) -> list[tuple[int, float]]:
    return [(row["image_id"], row["score"]) for row in ledger.detections]


def test_an_image_in_two_shards_counts_once_with_the_detections_of_the_first() -> None:
    ledger = filled(result(1, 2), result(2, 3, score=0.5, device="cpu:1"), result(1, 2, 3))
    assert scores(ledger) == [(1, 1.0), (2, 1.0), (3, 0.5)]
    assert [figures.images for figures in ledger.devices] == [2, 1]
    assert ledger.evaluated_ids == {1, 2, 3}
    assert ledger.evaluated(3) == EvaluatedImage(
        encoded_bytes=300, digest=f"{3:016x}", stamp="stamp of 3"
    )
    assert not ledger.failures
    assert not ledger.open_images


def test_devices_straggle_from_their_last_result_to_the_end_of_the_session() -> None:
    ledger = Ledger(IMAGES)
    ledger.accept(entry(result(1, device="cpu:0"), elapsed_ns=60))
    ledger.accept(entry(result(2, device="cpu:1"), elapsed_ns=100))
    assert ledger.straggler_share == pytest.approx(40 / 200)
    # One that has had nothing has waited all the time.
    ledger.begin("first", [device("cpu:2")])
    assert ledger.straggler_share == pytest.approx(140 / 300)
    assert Ledger(IMAGES).straggler_share == 0


def test_sessions_are_in_the_order_of_time_and_have_their_own_images() -> None:
    ledger = Ledger(IMAGES)
    for begun_s, session, images in ((200.0, "second", (3,)), (100.0, "first", (1, 2))):
        one = entry(result(*images), session=session, elapsed_ns=5)
        ledger.accept(replace(one, begun_s=begun_s))
    assert ledger.sessions == [
        SessionFigures(begun_s=100.0, wall_ns=5, images=2),
        SessionFigures(begun_s=200.0, wall_ns=5, images=1),
    ]


def test_accept_returns_a_new_result_unchanged() -> None:
    came = entry(result(1, 2), elapsed_ns=7)
    assert Ledger(IMAGES).accept(came) == came


def test_accept_returns_only_the_new_images_of_a_partly_known_result() -> None:
    ledger = filled(result(2))
    whole = replace(result(1, 2, 3), durations={"compute": (900,), "peaks": (30, 60, 90)})
    new = ledger.accept(entry(whole))
    assert new is not None
    assert (new.result.image_ids, new.result.encoded_bytes) == ((1, 3), (100, 300))
    assert [row["image_id"] for row in unpack_detections(new.result.detections)] == [1, 3]
    assert new.result.digests == (f"{1:016x}", f"{3:016x}")
    assert new.result.stamps == ("stamp of 1", "stamp of 3")
    # They are of three images, of which one is not in the part.
    assert new.result.durations == {"compute": (600,), "peaks": (20, 40, 60)}


def test_accept_returns_none_for_a_result_without_new_images() -> None:
    ledger = filled(result(1, 2))
    assert ledger.accept(entry(result(2, 1))) is None
    assert ledger.accept(entry(failed(3))) is None


def test_an_accepted_entry_has_no_facts_of_processes_and_nodes() -> None:
    plan = DevicePlan(name="cpu:0", kind="cpu", node="10.0.0.1", node_id="a-node", cpus=2.0)
    ready = DeviceReady(
        plan=plan,
        backend="oracle",
        precision="f32",
        description="CPU",
        batch_size=4,
        warmup_ns=5,
        batch_ns=6,
    )
    new = Ledger(IMAGES).accept(replace(entry(result(1)), device=ready))
    assert new is not None
    assert new.device.plan == DevicePlan(
        name="cpu:0", kind="cpu", node="10.0.0.1", node_id="", cpus=2.0
    )
    assert (new.device.warmup_ns, new.device.batch_ns) == (0, 0)


def test_an_image_without_people_has_a_result() -> None:
    ledger = filled(
        ShardResult(device="cpu:0", image_ids=(1,), detections=no_detections(), encoded_bytes=(9,))
    )
    assert 1 not in {image.image_id for image in ledger.open_images}
    assert ledger.evaluated(1) == EvaluatedImage(encoded_bytes=9, digest=f"{0:016x}", stamp="")
    assert ledger.evaluated(2) is None
    assert not ledger.detections


def test_a_failure_is_replaced_by_a_result() -> None:
    ledger = filled(failed(1, 2))
    assert [image.image_id for image in ledger.open_images] == [3, 1, 2]
    new = ledger.accept(entry(result(1)))
    assert new is not None
    assert new.result.image_ids == (1,)
    assert [(f.image_id, f.reason) for f in ledger.failures] == [
        (2, "unreadable"),
        (3, "no result came back"),
    ]


def test_a_result_is_not_replaced_by_a_failure() -> None:
    ledger = filled(result(1), failed(1), images=IMAGES[1:2])
    assert not ledger.failures
    assert ledger.num_settled == 1
    assert scores(ledger) == [(1, 1.0)]


def test_the_last_of_two_failures_of_an_image_is_reported() -> None:
    ledger = filled(failed(1, reason="first"), failed(1, reason="second"), images=IMAGES[1:2])
    assert [failure.reason for failure in ledger.failures] == ["second"]
    assert ledger.num_settled == 1


def test_results_and_failures_are_settled_and_nothing_twice() -> None:
    ledger = Ledger(IMAGES)
    counts = [ledger.num_settled]
    for one in (failed(2), result(1), failed(2), result(1, 2), failed(3, 1)):
        ledger.accept(entry(one))
        counts.append(ledger.num_settled)
    assert counts == [0, 1, 2, 2, 2, 3]


def test_images_that_never_came_back_are_failures_by_ascending_id() -> None:
    ledger = filled(result(2))
    assert ledger.failures == [
        Failure(1, "1.jpg", "no result came back"),
        Failure(3, "3.jpg", "no result came back"),
    ]


def test_pending_images_are_in_the_order_of_the_run() -> None:
    assert filled(result(1)).open_images == [IMAGES[0], IMAGES[2]]


@pytest.mark.parametrize("one", [result(1, 99), replace(result(1), failures=failed(99).failures)])
def test_a_result_of_another_dataset_is_an_error_and_leaves_no_trace(one: ShardResult) -> None:
    ledger = Ledger(IMAGES)
    with pytest.raises(ExecutionError, match=r"cpu:0.*\[99\]"):
        ledger.accept(entry(one))
    assert ledger.open_images == IMAGES
    assert (ledger.num_settled, ledger.num_sessions, ledger.devices) == (0, 0, [])


def test_detections_have_one_order_whichever_result_came_first() -> None:
    parts = [result(3), result(1, score=0.5), result(2, x=4.0)]
    forward, backward = filled(*parts), filled(*parts[::-1])
    assert [*forward.detections] == [*backward.detections]
    assert [row["image_id"] for row in forward.detections] == [1, 2, 3]
    assert {row["category_id"] for row in forward.detections} == {1}


def test_better_detections_of_an_image_come_first_and_ties_are_sorted_by_keypoints() -> None:
    poses = Poses(np.repeat([[3.0], [9.0], [7.0]], 51, axis=1), np.array([0.5, 1.0, 1.0]))
    ledger = filled(
        ShardResult(
            device="cpu:0",
            image_ids=(1,),
            detections=pack_detections(np.array([1, 1, 1]), poses),
            encoded_bytes=(1,),
        )
    )
    order = [(row["score"], row["keypoints"][0]) for row in ledger.detections]
    assert order == [(1.0, 7.0), (1.0, 9.0), (0.5, 3.0)]


@given(st.lists(st.sets(st.integers(1, 6), min_size=1), max_size=8), st.data())
def test_shards_may_overlap_and_come_in_any_order(
    shards: list[set[int]], data: st.DataObject
) -> None:
    images = [ImageRecord(number, f"{number}.jpg", 4, 6) for number in range(1, 7)]
    ledger, seen = Ledger(images), set[int]()
    for shard in data.draw(st.permutations(shards)):
        new = ledger.accept(entry(result(*sorted(shard), score=len(shard))))
        assert set(new.result.image_ids if new else ()) == shard - seen
        seen |= shard
    wanted = {number for shard in shards for number in shard}
    assert [row["image_id"] for row in ledger.detections] == sorted(wanted)
    assert len(ledger.open_images) == 6 - len(wanted)
    assert sum(figures.images for figures in ledger.devices) == len(wanted)


def test_durations_are_kept_by_stage_without_those_of_known_images() -> None:
    ledger = filled(result(1), result(2, device="cpu:1"), result(1, 3), result(2))
    assert [*ledger.durations["compute"]] == [5, 5, 2]
    assert [figures.compute_ns for figures in ledger.devices] == [7, 5]


def test_time_goes_to_the_last_result_of_each_session() -> None:
    ledger = Ledger(IMAGES)
    for one, session, elapsed_ns in [
        (result(1), "first", 70),
        (result(2), "first", 50),
        (result(3), "second", 200),
        (result(3), "second", 230),
    ]:
        ledger.accept(entry(one, session, elapsed_ns))
    assert (ledger.num_sessions, ledger.wall_ns) == (2, 300)


def test_a_device_has_the_time_of_the_sessions_that_it_took_part_in() -> None:
    ledger = Ledger(IMAGES)
    ledger.begin("first", [device("cpu:0"), device("cpu:1")])
    ledger.accept(entry(result(1), "first", 70))
    ledger.begin("second", [device("cpu:1"), device("cpu:2")])
    ledger.accept(entry(result(2, device="cpu:1"), "second", 30))
    assert ledger.devices == [
        DeviceFigures(device=device("cpu:0"), images=1, compute_ns=5, wall_ns=70),
        DeviceFigures(device=device("cpu:1"), images=1, compute_ns=5, wall_ns=100),
        DeviceFigures(device=device("cpu:2"), images=0, compute_ns=0, wall_ns=30),
    ]


def test_a_device_is_the_same_after_a_new_start() -> None:
    ledger = Ledger(IMAGES)
    for number, session in enumerate(("first", "second"), 1):
        plan = DevicePlan(name="cpu:0", kind="cpu", node="", node_id=f"node of {session}", cpus=2.0)
        ready = replace(device(), plan=plan, warmup_ns=number, batch_ns=number)
        ledger.accept(
            LedgerEntry(session=session, elapsed_ns=10, device=ready, result=result(number))
        )
    assert ledger.devices == [DeviceFigures(device=device(), images=2, compute_ns=10, wall_ns=20)]


# Facts of a device that may differ between sessions; the device is the same nevertheless.
OF_A_SESSION = {
    "warmup_ns",
    "batch_ns",
    "compute_ns",
    "feeders",
    "feeder_processes",
    "batches_in_flight",
    "reads_images",
    "plan.node_id",
}

# Facts by which devices are told apart. A new field is named in one of the two sets.
OF_A_DEVICE = {
    "backend",
    "precision",
    "description",
    "batch_size",
    "shard_size",
    "slots",
    "host",
    "versions",
    "passed_over",
    "plan.name",
    "plan.kind",
    "plan.node",
    "plan.cpus",
    "plan.device_id",
    "plan.model",
    "plan.card",
    "plan.share",
}


def with_other(ready: DeviceReady, path: str) -> DeviceReady:
    """Returns a device with another value in one field."""
    if path.startswith("plan."):
        name = path.removeprefix("plan.")
        changed = {name: other_value(getattr(ready.plan, name))}
        return replace(ready, plan=replace(ready.plan, **changed))
    return replace(ready, **{path: other_value(getattr(ready, path))})


def other_value(value: object) -> Any:
    if isinstance(value, tuple):
        return (*value, ("name", "1.0"))
    if isinstance(value, str):
        return f"{value}1"
    return 0 if value else 1


def test_each_fact_of_a_device_is_one_of_the_device_or_one_of_a_session() -> None:
    own = {field.name for field in fields(DeviceReady)} - {"plan"}
    assert own | {f"plan.{one.name}" for one in fields(DevicePlan)} == OF_A_SESSION | OF_A_DEVICE
    assert not OF_A_SESSION & OF_A_DEVICE


@pytest.mark.parametrize("path", sorted(OF_A_SESSION | OF_A_DEVICE))
def test_a_device_is_another_only_if_a_fact_of_the_device_differs(path: str) -> None:
    ledger = Ledger(IMAGES)
    ledger.begin("first", [device()])
    ledger.begin("second", [with_other(device(), path)])
    assert len(ledger.devices) == 1 + (path in OF_A_DEVICE)


def test_a_device_that_is_another_in_the_next_session_is_listed_twice() -> None:
    ledger = Ledger(IMAGES)
    ledger.accept(entry(result(1), "first", 10))
    ledger.accept(
        LedgerEntry(
            session="second",
            elapsed_ns=20,
            device=device(description="another CPU"),
            result=result(2, 3),
        )
    )
    found = [(f.device.description, f.images, f.wall_ns) for f in ledger.devices]
    assert found == [("CPU", 1, 10), ("another CPU", 2, 20)]


def test_devices_are_in_the_order_of_their_numbers() -> None:
    ledger = Ledger(IMAGES)
    ledger.begin("first", [device(f"cuda:{number}") for number in ("10", "2.10", "0", "2", "2.9")])
    names = [figures.device.plan.name for figures in ledger.devices]
    assert names == ["cuda:0", "cuda:2", "cuda:2.9", "cuda:2.10", "cuda:10"]


def damaged(*image_ids: int, among: tuple[int, ...], reason: str = "cut") -> ShardResult:
    found = tuple(Damage(number, f"{number}.jpg", reason) for number in image_ids)
    return replace(result(*among), damaged=found)


def test_damaged_images_are_named_once_by_ascending_id() -> None:
    ledger = filled(damaged(3, 2, among=(2, 3)), damaged(2, 1, among=(1, 2), reason="other"))
    assert [(one.image_id, one.reason) for one in ledger.damaged] == [
        (1, "other"),
        (2, "cut"),
        (3, "cut"),
    ]


def test_the_part_of_a_result_that_is_kept_names_its_own_damaged_images_alone() -> None:
    ledger = filled(result(1, 2))
    kept = ledger.accept(entry(damaged(2, 3, among=(2, 3))))
    assert kept is not None
    assert [one.image_id for one in kept.result.damaged] == [3]


def test_the_work_per_result_does_not_grow_with_the_number_of_images() -> None:
    def median_ns(number: int) -> float:
        ledger = Ledger([ImageRecord(i, f"{i}.jpg", 4, 6) for i in range(number)])
        times = []
        for image_id in range(200):
            one = entry(result(image_id))
            start = thread_time_ns()
            ledger.accept(one)
            assert ledger.num_settled == image_id + 1
            times.append(thread_time_ns() - start)
        return median(times)

    assert median_ns(200_000) < 10 * median_ns(200)
