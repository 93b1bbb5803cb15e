"""Shards and maps in flight are bounded by the size of the object store."""

import pyarrow as pa
import pytest

from distributed_pose import RunConfig, SetupError, parse_config
from distributed_pose.cluster.backpressure import InFlightBudget
from distributed_pose.data.shards import IMAGES, Shard

# Of one image of the fixed profile: 46 by 80 cells, 19 heatmaps and 38 PAFs, float32.
MAPS_BYTES = 46 * 80 * (19 + 38) * 4


def config(**values: object) -> RunConfig:
    return parse_config({"batch_size": 1, "gather": "maps", **values})


def shard(count: int = 1, height: int = 480, width: int = 640, encoded: bytes = b"jpeg") -> Shard:
    rows = [(number, f"{number}.jpg", height, width, encoded) for number in range(count)]
    columns = zip(*rows, strict=True) if rows else [[] for _ in IMAGES]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, IMAGES, strict=True)]
    return Shard(0, pa.record_batch(arrays, schema=IMAGES), (), ())


def test_half_of_the_object_store_may_be_reserved() -> None:
    one = shard()
    size = one.images.nbytes + MAPS_BYTES
    transit = InFlightBudget(config(), room_bytes=2 * 2 * size)
    first = transit.reserve(one)
    assert transit.has_room(one)
    transit.reserve(one)
    assert not transit.has_room(one)
    transit.release(first)
    assert transit.has_room(one)


def test_a_byte_too_much_has_no_room() -> None:
    one = shard()
    size = one.images.nbytes + MAPS_BYTES
    transit = InFlightBudget(config(), room_bytes=2 * 2 * size - 2)
    transit.reserve(one)
    assert not transit.has_room(one)


def test_one_shard_may_always_be_sent_and_nothing_beside_it() -> None:
    large = shard(count=5)
    transit = InFlightBudget(config(), room_bytes=2 * MAPS_BYTES)
    assert transit.has_room(large)
    load = transit.reserve(large)
    assert not transit.has_room(shard())
    transit.release(load)
    assert transit.has_room(large)


def test_maps_are_reserved_before_they_arrive() -> None:
    one = shard(count=3)
    load = InFlightBudget(config(), room_bytes=0).reserve(one)
    assert load.used_bytes == one.images.nbytes
    assert load.reserved_bytes == one.images.nbytes + 3 * MAPS_BYTES


def test_without_a_bound_there_is_always_room() -> None:
    transit = InFlightBudget(config(), room_bytes=0)
    for _ in range(3):
        transit.reserve(shard(count=20))
        assert transit.has_room(shard(count=20))


def test_a_batch_whose_maps_do_not_fit_is_refused_before_the_run() -> None:
    needed = 4 * MAPS_BYTES
    InFlightBudget(config(), 2 * needed, shard_size=4)
    with pytest.raises(SetupError, match=r"3 MB.*7 MB.*batch_size, or gather=poses"):
        InFlightBudget(config(), 2 * needed - 2, shard_size=4)


def test_where_workers_group_only_encoded_bytes_count() -> None:
    one = shard(encoded=b"x" * 1000)
    size = one.images.nbytes
    transit = InFlightBudget(config(gather="poses"), 2 * 2 * size, shard_size=64)
    assert transit.reserve(one).reserved_bytes == size
    assert transit.has_room(one)
    transit.reserve(one)
    assert not transit.has_room(one)


def test_half_precision_takes_half() -> None:
    one = shard()
    load = InFlightBudget(config(maps_dtype="f16"), room_bytes=MAPS_BYTES).reserve(one)
    assert load.reserved_bytes == one.images.nbytes + MAPS_BYTES // 2
    with pytest.raises(SetupError):
        InFlightBudget(config(), room_bytes=MAPS_BYTES)


def test_wide_images_promise_more_where_the_canvas_follows_them() -> None:
    transit = InFlightBudget(config(profile="upstream"), room_bytes=0)
    square, wide = (shard(height=368, width=width) for width in (368, 3 * 368))
    promised = [transit.reserve(one).reserved_bytes - one.images.nbytes for one in (square, wide)]
    assert promised == [46 * 46 * 57 * 4, 3 * 46 * 46 * 57 * 4]


def test_the_peak_is_of_bytes_that_are_used_at_once() -> None:
    transit = InFlightBudget(config(), room_bytes=0)
    one, two = shard(), shard(count=2)
    first = transit.reserve(one)
    transit.add(first, 1000)
    assert first.used_bytes == one.images.nbytes + 1000
    assert transit.peak_bytes == one.images.nbytes + 1000
    second = transit.reserve(two)
    peak = one.images.nbytes + 1000 + two.images.nbytes
    assert transit.peak_bytes == peak
    transit.release(first)
    transit.add(second, 500)
    transit.release(second)
    transit.reserve(one)
    assert transit.peak_bytes == peak
