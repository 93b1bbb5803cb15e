import pyarrow as pa
import pytest

from distributed_pose import RunConfig, SetupError, parse_config
from distributed_pose.cluster.backpressure import Transit
from distributed_pose.data.shards import IMAGES, Shard

# Of one image of the fixed profile: 46 by 80 cells, 19 heatmaps and 38 PAFs, float32.
MAPS_BYTES = 46 * 80 * (19 + 38) * 4


def config(**values: object) -> RunConfig:
    return parse_config({"batch_size": 1, **values})


def shard(count: int = 1, height: int = 480, width: int = 640, encoded: bytes = b"jpeg") -> Shard:
    rows = [(number, f"{number}.jpg", height, width, encoded) for number in range(count)]
    columns = zip(*rows, strict=True) if rows else [[] for _ in IMAGES]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, IMAGES, strict=True)]
    return Shard(0, pa.record_batch(arrays, schema=IMAGES), (), ())


def test_half_of_the_object_store_may_be_promised() -> None:
    one = shard()
    size = one.images.nbytes + MAPS_BYTES
    transit = Transit(config(), room_bytes=2 * 2 * size)
    first = transit.entered(one)
    assert transit.has_room(one)
    transit.entered(one)
    assert not transit.has_room(one)
    transit.left(first)
    assert transit.has_room(one)


def test_a_byte_too_much_has_no_room() -> None:
    one = shard()
    size = one.images.nbytes + MAPS_BYTES
    transit = Transit(config(), room_bytes=2 * 2 * size - 2)
    transit.entered(one)
    assert not transit.has_room(one)


def test_one_shard_may_always_be_sent_and_nothing_beside_it() -> None:
    large = shard(count=5)
    transit = Transit(config(), room_bytes=2 * MAPS_BYTES)
    assert transit.has_room(large)
    load = transit.entered(large)
    assert not transit.has_room(shard())
    transit.left(load)
    assert transit.has_room(large)


def test_maps_are_promised_before_they_are_there() -> None:
    one = shard(count=3)
    load = Transit(config(), room_bytes=0).entered(one)
    assert load.there == one.images.nbytes
    assert load.promised == one.images.nbytes + 3 * MAPS_BYTES


def test_without_a_bound_there_is_always_room() -> None:
    transit = Transit(config(), room_bytes=0)
    for _ in range(3):
        transit.entered(shard(count=20))
        assert transit.has_room(shard(count=20))


def test_a_batch_whose_maps_do_not_fit_is_refused_before_the_run() -> None:
    needed = 4 * MAPS_BYTES
    Transit(config(), 2 * needed, shard_size=4)
    with pytest.raises(SetupError, match=r"3 MB.*7 MB.*batch_size, or gather=poses"):
        Transit(config(), 2 * needed - 2, shard_size=4)


def test_where_workers_group_only_encoded_bytes_count() -> None:
    one = shard(encoded=b"x" * 1000)
    size = one.images.nbytes
    transit = Transit(config(gather="poses"), 2 * 2 * size, shard_size=64)
    assert transit.entered(one).promised == size
    assert transit.has_room(one)
    transit.entered(one)
    assert not transit.has_room(one)


def test_half_precision_takes_half() -> None:
    one = shard()
    load = Transit(config(maps_dtype="f16"), room_bytes=MAPS_BYTES).entered(one)
    assert load.promised == one.images.nbytes + MAPS_BYTES // 2
    with pytest.raises(SetupError):
        Transit(config(), room_bytes=MAPS_BYTES)


def test_wide_images_promise_more_where_the_canvas_follows_them() -> None:
    transit = Transit(config(profile="upstream"), room_bytes=0)
    square, wide = (shard(height=368, width=width) for width in (368, 3 * 368))
    promised = [transit.entered(one).promised - one.images.nbytes for one in (square, wide)]
    assert promised == [46 * 46 * 57 * 4, 3 * 46 * 46 * 57 * 4]


def test_the_peak_is_of_what_was_there_at_once() -> None:
    transit = Transit(config(), room_bytes=0)
    one, two = shard(), shard(count=2)
    first = transit.entered(one)
    transit.arrived(first, 1000)
    assert first.there == one.images.nbytes + 1000
    assert transit.peak_bytes == one.images.nbytes + 1000
    second = transit.entered(two)
    peak = one.images.nbytes + 1000 + two.images.nbytes
    assert transit.peak_bytes == peak
    transit.left(first)
    transit.arrived(second, 500)
    transit.left(second)
    transit.entered(one)
    assert transit.peak_bytes == peak
