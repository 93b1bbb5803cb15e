"""Records from JSON have strictly the annotated types, or are refused in one line."""

import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from distributed_pose.files.json_records import Count, Figure, Positive, read_record, read_records


@dataclass(frozen=True)
class Inner:
    rate: Figure
    count: Positive | None = None


@dataclass(frozen=True)
class Record:
    name: str
    numbers: tuple[Count, ...]
    inner: Mapping[str, Inner]


GOOD = '{"name": "a", "numbers": [1, 2], "inner": {"x": {"rate": 1}}, "more": null}'


def test_a_record_has_the_types_of_its_dataclass() -> None:
    assert read_record(Record, GOOD) == Record("a", (1, 2), {"x": Inner(1.0)})
    assert read_records(Record, f"[{GOOD}, {GOOD}]".encode()) == [read_record(Record, GOOD)] * 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a"', "5", "name: "),
        ("[1, 2]", "[1, 2.0]", "numbers.1: "),
        ("[1, 2]", "[true]", "numbers.0: "),
        ("[1, 2]", "[-1]", "numbers.0: "),
        ("[1, 2]", "[9223372036854775808]", "numbers.0: "),
        ("[1, 2]", f"[{'9' * 5000}]", "out of range"),
        ("[1, 2]", "null", "numbers: "),
        ('"rate": 1', '"rate": 1e999', r"inner.x.rate: .*finite"),
        ('"rate": 1', '"rate": NaN', r"inner.x.rate: .*finite"),
        ('"rate": 1', '"rate": "1"', r"inner.x.rate: "),
        ('"rate": 1', '"rate": 1, "count": 0', r"inner.x.count: "),
        ('"rate": 1', "", "inner.x.rate: Field required"),
        (GOOD, "", "expected one object"),
        (GOOD, f"{GOOD}, {GOOD}", "expected one object"),
        (GOOD, "[" * 100_000, "recursion"),
        (GOOD, "\ufeff{}", "Invalid JSON"),
        (GOOD, '{"name": "\\ud800"}', "Invalid JSON"),
    ],
)
def test_an_invalid_record_is_an_error_of_one_line(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_record(Record, GOOD.replace(old, new))
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 300


def test_a_million_errors_take_no_more_memory_than_the_first() -> None:
    content = b"[" + b"0," * 500_000 + b"0]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="0: Input should be an object"):
            read_records(Inner, content)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
