"""Packed images: files of other writers are read, damaged and hostile ones are refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed_pose import SetupError
from distributed_pose.data.coco import CocoIndex
from distributed_pose.data.packed_images import PACKED
from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import open_images
from distributed_pose.records.images import Failure

NAMES, SIZES, BYTES = ["a.jpg"], [1], [b"x"]


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("file_name", [7], "int64"),
        ("size", ["1"], "string"),
        ("size", [1.0], "double"),
        ("encoded", ["x"], "string"),
        ("encoded", [[1]], "list"),
    ],
)
def test_a_packed_column_of_another_type_is_a_setup_error(
    tmp_path: Path, column: str, values: list[object], kind: str
) -> None:
    columns = {"file_name": NAMES, "size": SIZES, "encoded": BYTES, column: values}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(
        SetupError, match=f"a.parquet .* column {column} is of type {kind}"
    ) as error:
        open_images(str(tmp_path))
    assert len(str(error.value).splitlines()) == 1


def test_packed_images_of_other_writers_are_read(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("encoded", pa.large_binary()),
            ("size", pa.int32()),
            ("label", pa.string()),
            ("file_name", pa.large_string()),
        ]
    )
    table = pa.table([BYTES, SIZES, ["cat"], NAMES], schema=schema)
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_images(str(tmp_path)).read("a.jpg") == b"x"


@pytest.mark.parametrize(
    "change", [{"size": [None]}, {"file_name": [None]}, {"encoded": [None]}, {"size": [2]}]
)
def test_an_incomplete_packed_row_is_an_unreadable_image(
    tmp_path: Path, change: dict[str, list[object]]
) -> None:
    columns = {"file_name": NAMES, "size": SIZES, "encoded": BYTES, **change}
    pq.write_table(pa.table(columns, schema=PACKED), tmp_path / "a.parquet")
    source = open_images(str(tmp_path))
    with pytest.raises(OSError, match=r"packed image|no image of that size"):
        source.read("a.jpg")


def test_a_file_that_only_has_the_name_of_packed_images_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "images-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(SetupError, match=r"images-00000\.parquet is not a packed dataset"):
        open_images(str(tmp_path))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_packed_file_that_is_a_link_out_of_its_folder_is_a_setup_error(
    packed: Path, tmp_path: Path, form: str
) -> None:
    (tmp_path / "linked").mkdir()
    for path in packed.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    with pytest.raises(SetupError, match="it leads out of the folder"):
        open_images(form.format(tmp_path / "linked"))


def test_a_parquet_file_without_the_columns_is_not_read(tmp_path: Path, index: CocoIndex) -> None:
    pq.write_table(pa.table({"name": ["a.jpg"]}), tmp_path / "a.parquet")
    assert isinstance(read_image(index.images[0], open_images(str(tmp_path))), Failure)


def test_damage_in_a_packed_file_is_a_failure_of_its_images(packed: Path, index: CocoIndex) -> None:
    path = packed / "images-00000.parquet"
    content = bytearray(path.read_bytes())
    for at in range(100, len(content) - 5000, 64):
        content[at] ^= 0xFF
    path.write_bytes(content)
    source = open_images(str(packed))
    results = [read_image(image, source) for image in index.images]
    assert any(isinstance(result, Failure) for result in results)


def bomb(path: Path, rows: int, image: bytes) -> None:
    names = [f"{number}.jpg" for number in range(rows)]
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [image])
    table = pa.table({"file_name": names, "size": [len(image)] * rows, "encoded": shared})
    pq.write_table(table, path, compression="zstd", store_schema=False)


def test_packed_images_that_decompress_to_too_much_are_failures(tmp_path: Path) -> None:
    bomb(tmp_path / "a.parquet", 1, bytes(70 * 2**20))
    source = open_images(str(tmp_path))
    with pytest.raises(OSError, match=r"bytes of column encoded in a row group, over the limit"):
        source.read("0.jpg")


def test_many_packed_images_that_share_one_large_value_are_failures(tmp_path: Path) -> None:
    bomb(tmp_path / "a.parquet", 100, bytes(2**20))
    source = open_images(str(tmp_path))
    with pytest.raises(OSError, match="more bytes of images than it states"):
        source.read("0.jpg")


def test_packed_names_of_megabytes_are_failures(tmp_path: Path) -> None:
    columns = {"file_name": ["x" * 5000], "size": SIZES, "encoded": BYTES}
    pq.write_table(pa.table(columns, schema=PACKED), tmp_path / "a.parquet")
    with pytest.raises(OSError, match="names of over 4096 bytes"):
        open_images(str(tmp_path)).read("a.jpg")
