"""Hostile packs: Parquet files that are damaged, of other columns, or hold more than they weigh."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distributed_pose.data.packed_images import PACKED
from tests.hostile.cases import HOSTILE_NAMES, SIZE, Case, annotations, damaged, dataset_settings
from tests.image_files import encode, picture

NAMES = ("a.png", "b.png", "good.png")


def _good() -> bytes:
    return encode(".png", picture(*SIZE))


def _table(**columns: Any) -> pa.Table:
    good = [_good()] * len(NAMES)
    whole = {"file_name": [*NAMES], "size": [len(one) for one in good], "encoded": good, **columns}
    return pa.table(whole)


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _bomb(rows: int, image_bytes: int) -> bytes:
    """Returns a file that lists one image many times, stored once and compressed."""
    image = _good() + bytes(image_bytes)
    names = [*NAMES, *(f"{number}.png" for number in range(rows))]
    values = pa.DictionaryArray.from_arrays(pa.array([0] * len(names), pa.int32()), [image])
    table = pa.table({"file_name": names, "size": [99] * len(names), "encoded": values})
    return _parquet(table, compression="zstd", store_schema=False)


def _long_names() -> bytes:
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 3, pa.int32()), ["x" * 2**28])
    return _parquet(_table(file_name=names), compression="zstd", store_schema=False)


def _many_groups() -> bytes:
    count = 20_000
    names = [*NAMES, *map(str, range(count))]
    table = pa.table([names, [1] * len(names), [b"x"] * len(names)], schema=PACKED)
    return _parquet(table, row_group_size=1)


_CONTENTS: dict[str, Callable[[Random], bytes]] = {
    "damaged": lambda r: damaged(_parquet(_table()), r),
    "damaged, uncompressed": lambda r: damaged(_parquet(_table(), compression="none"), r),
    "damaged, encrypted mark": lambda r: damaged(b"PARE" + _parquet(_table())[4:-4] + b"PARE", r),
    "one image thousands of times": lambda _: _bomb(1000, 2**21),
    "one image of 200 MB": lambda _: _bomb(0, 200 * 2**20),
    "names of 256 MB": lambda _: _long_names(),
    "a group for each of 20,000 images": lambda _: _many_groups(),
    "sizes of text": lambda _: _parquet(_table(size=["a", "b", "c"])),
    "sizes below 0": lambda _: _parquet(_table(size=[-1, -(2**63), 0])),
    "sizes that are not there": lambda _: _parquet(_table(size=[None, 5, None])),
    "sizes of other numbers": lambda _: _parquet(_table(size=[0.5, float("nan"), 1e300])),
    "names of numbers": lambda _: _parquet(_table(file_name=[1, 2, 3])),
    "names that are not there": lambda _: _parquet(_table(file_name=["a.png", None, "good.png"])),
    "names that lead out": lambda _: _parquet(_table(file_name=["../a", "/etc/passwd", "b.png"])),
    "names twice": lambda _: _parquet(_table(file_name=["a.png"] * 3)),
    "images that are not there": lambda _: _parquet(_table(encoded=[None, b"", _good()])),
    "images in lists": lambda _: _parquet(_table(encoded=[[1], [2, 3], []])),
    "images in structs": lambda _: _parquet(_table(encoded=[{"bytes": b"a"}] * 3)),
    "images as text": lambda _: _parquet(_table(encoded=["a", "b", "c"])),
    "columns in columns": lambda _: _parquet(_table(file_name=[[[["a"]]]] * 3)),
    "no columns": lambda _: _parquet(pa.table({})),
    "no rows": lambda _: _parquet(_table().slice(0, 0)),
    "columns of hostile names": lambda _: _parquet(_table(**dict.fromkeys(HOSTILE_NAMES, NAMES))),
    "other content": lambda r: r.choice((b"", b"PAR1", b"PAR1PAR1", b"text", r.randbytes(400))),
    "length of the footer": lambda _: b"PAR1" + bytes(40) + b"\xff\xff\xff\x7fPAR1",
}


def _run_on(content: Callable[[Random], bytes]) -> Callable[[Path, Random], Sequence[str]]:
    def write(folder: Path, random: Random) -> Sequence[str]:
        (folder / "pack").mkdir()
        (folder / "pack" / "images-00000.parquet").write_bytes(content(random))
        (folder / "labels.json").write_text(json.dumps(annotations(dict.fromkeys(NAMES, SIZE))))
        return dataset_settings("pack", **{"data.read": random.choice(("driver", "worker"))})

    return write


def _many_parts(folder: Path, random: Random) -> Sequence[str]:
    settings = _run_on(lambda _: _parquet(_table()))(folder, random)
    content = _parquet(_table().slice(0, 0))
    for number in range(1, 2000):
        (folder / "pack" / f"images-{number:05d}.parquet").write_bytes(content)
    return settings


def pack_cases(_random: Random) -> list[Case]:
    """Returns one case of each constructed kind, and several of random damage."""
    writers = {name: _run_on(content) for name, content in _CONTENTS.items()}
    writers["two thousand files"] = _many_parts
    damages = [name for name in _CONTENTS if name.startswith("damaged")] * 7
    return [Case("pack", name, writers[name]) for name in [*writers, *damages]]
