"""Images are the same from a folder, a URI and packed files, and damaged packs are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed_pose import ExecutionError, SetupError
from distributed_pose.data import sources
from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.data.packing import ANNOTATIONS, pack_dataset
from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import PACKED, FolderImages, ImageSource, open_images
from distributed_pose.pose.skeleton import COCO_KEYPOINTS
from distributed_pose.records import Failure
from tests.conftest import Dataset
from tests.object_store import object_store


@pytest.fixture
def index(people: Dataset) -> CocoIndex:
    return load_index(people.annotations)


@pytest.fixture
def packed(people: Dataset, index: CocoIndex, tmp_path: Path) -> Path:
    pack_dataset(index, FolderImages(people.images), str(tmp_path / "packed"))
    return tmp_path / "packed"


def by_uri(people: Dataset, _packed: Path) -> ImageSource:
    return open_images(people.images.as_uri())


def from_packed(_people: Dataset, packed: Path) -> ImageSource:
    return open_images(str(packed))


def from_packed_by_uri(_people: Dataset, packed: Path) -> ImageSource:
    return open_images(packed.as_uri())


@pytest.mark.parametrize("opened", [by_uri, from_packed, from_packed_by_uri])
def test_images_are_the_same_wherever_they_are_read(
    people: Dataset, index: CocoIndex, packed: Path, opened: Callable[..., ImageSource]
) -> None:
    source, folder = opened(people, packed), FolderImages(people.images)
    # In another order than in the files, so that row groups are read more than once.
    for image in (*index.images[::3], *index.images[::-2]):
        assert source.read(image.file_name) == folder.read(image.file_name)
        assert source.size(image.file_name) == folder.size(image.file_name)
    again = open_images(source.location)
    assert again.read(index.images[0].file_name) == folder.read(index.images[0].file_name)


@pytest.mark.parametrize("opened", [by_uri, from_packed])
def test_a_missing_image_is_a_failure_that_names_it(
    people: Dataset, index: CocoIndex, packed: Path, opened: Callable[..., ImageSource]
) -> None:
    source = opened(people, packed)
    stranger = load_index(people.annotations).images[0].__class__(99, "none.jpg", 4, 6)
    failure = read_image(stranger, source)
    assert isinstance(failure, Failure)
    assert "none.jpg" in failure.reason
    assert source.size("none.jpg") is None
    assert isinstance(read_image(index.images[0], source), bytes)


@pytest.mark.parametrize("opened", [by_uri, from_packed])
def test_an_image_over_the_size_limit_is_not_read(
    people: Dataset,
    index: CocoIndex,
    packed: Path,
    opened: Callable[..., ImageSource],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = opened(people, packed)
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10)
    with pytest.raises(OSError, match="over the limit of 10"):
        source.read(index.images[0].file_name)


def stray_files(people: Dataset, folder: Path) -> None:
    """Copies images, and adds files of other tools: metadata, another dataset, a damaged file."""
    for path in people.images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    pq.write_table(pa.table({"file_name": ["a.jpg"], "text": ["a"]}), folder / "metadata.parquet")
    pq.write_table(pa.table({"x": [1]}), folder / "images-00000.parquet")
    (folder / "cut.parquet").write_bytes(b"no parquet")
    (folder / "folder.parquet").mkdir()
    (folder / "README.md").write_text("images")


@pytest.mark.parametrize("uri", [False, True])
def test_a_folder_of_images_may_hold_other_files(
    people: Dataset, index: CocoIndex, tmp_path: Path, uri: bool
) -> None:
    stray_files(people, tmp_path)
    source = open_images(tmp_path.as_uri() if uri else str(tmp_path))
    name = index.images[0].file_name
    assert source.read(name) == FolderImages(people.images).read(name)


def test_a_folder_of_packed_images_may_hold_other_files(
    people: Dataset, index: CocoIndex, packed: Path
) -> None:
    (packed / "images-00000.parquet").rename(packed / "part.parquet")
    stray_files(people, packed)
    for path in packed.glob("*.jpg"):
        path.unlink()
    source = open_images(str(packed))
    name = index.images[0].file_name
    assert source.read(name) == FolderImages(people.images).read(name)


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


def test_a_file_uri_opens_the_folder_that_it_names(
    people: Dataset, index: CocoIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder, 100% @home?"
    folder.symlink_to(people.images)
    source = open_images(folder.as_uri())
    assert isinstance(source, FolderImages)
    assert str(source.location) == folder.as_uri()
    name = index.images[0].file_name
    assert source.read(name) == (people.images / name).read_bytes()


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


@pytest.mark.parametrize("location", ["nowhere", "file:///nowhere", "gopher://x/y"])
def test_a_location_that_cannot_be_opened_is_a_setup_error(location: str) -> None:
    with pytest.raises(SetupError, match=r"nowhere is not a folder|cannot open gopher"):
        open_images(location)


def test_a_packed_dataset_has_its_annotations_and_small_row_groups(
    people: Dataset, packed: Path
) -> None:
    kept = load_index(packed / ANNOTATIONS)
    assert kept.images == load_index(people.annotations).images
    with pq.ParquetFile(packed / "images-00000.parquet") as file:
        assert file.schema_arrow == PACKED
        assert file.metadata.row_group(0).num_rows <= 16
    assert not list(packed.glob("*.partial"))


def test_a_limited_dataset_is_packed_with_the_annotations_of_its_images_only(
    people: Dataset, tmp_path: Path
) -> None:
    limited = load_index(people.annotations, limit=3)
    pack_dataset(limited, FolderImages(people.images), tmp_path.as_uri())
    kept = load_index(tmp_path / ANNOTATIONS)
    assert kept.images == limited.images
    assert not kept.is_partial


def test_packing_into_a_folder_that_is_not_empty_is_refused(
    people: Dataset, packed: Path, index: CocoIndex
) -> None:
    with pytest.raises(SetupError, match="is not empty"):
        pack_dataset(index, FolderImages(people.images), str(packed))


def test_packing_fails_if_an_image_cannot_be_read(index: CocoIndex, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExecutionError, match=index.images[0].file_name):
        pack_dataset(index, FolderImages(tmp_path / "empty"), str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.parquet"))


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


def test_large_images_are_packed_into_smaller_row_groups(tmp_path: Path) -> None:
    contents = {f"{number}.jpg": bytes([number]) * (2**25 + 1) for number in range(3)}
    (tmp_path / "images").mkdir()
    for name, content in contents.items():
        (tmp_path / "images" / name).write_bytes(content)
    listed = [
        {"id": n, "file_name": name, "height": 9, "width": 9} for n, name in enumerate(contents)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS)}]
    labels = {"images": listed, "annotations": [], "categories": categories}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    images = FolderImages(tmp_path / "images")
    pack_dataset(load_index(tmp_path / "labels.json"), images, str(tmp_path / "packed"))
    with pq.ParquetFile(tmp_path / "packed" / "images-00000.parquet") as file:
        assert file.num_row_groups == 3
    source = open_images(str(tmp_path / "packed"))
    assert all(source.read(name) == content for name, content in contents.items())


@pytest.mark.parametrize("opened", [by_uri, from_packed, from_packed_by_uri])
def test_a_stamp_changes_when_the_file_is_written_again(
    people: Dataset, index: CocoIndex, packed: Path, opened: Callable[..., ImageSource]
) -> None:
    names = {image.file_name for image in index.images}
    source = opened(people, packed)
    before = source.stamps({*names, "none.jpg"})
    assert before.keys() == names
    assert source.stamps(names) == before
    place = people.images / index.images[0].file_name
    path = place if opened is by_uri else packed / "images-00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content)
    after = opened(people, packed).stamps(names)
    assert after[index.images[0].file_name] != before[index.images[0].file_name]


def test_objects_get_their_stamps_from_one_listing_per_folder() -> None:
    with object_store() as store:
        for name in ("a.jpg", "b.jpg", "more/c.jpg"):
            store.objects[f"bucket/images/{name}"] = b"a jpeg"
            store.modified[f"bucket/images/{name}"] = "2026-01-01T00:00:00.000Z"
        source = open_images(store.uri("bucket/images"))
        before = source.stamps({"a.jpg", "b.jpg", "more/c.jpg", "none.jpg"})
        assert before.keys() == {"a.jpg", "b.jpg", "more/c.jpg"}
        store.modified["bucket/images/a.jpg"] = "2026-01-01T00:00:01.000Z"
        after = source.stamps({"a.jpg", "b.jpg"})
        assert after["a.jpg"] != before["a.jpg"]
        assert after["b.jpg"] == before["b.jpg"]
        # An object whose time the store does not record has no stamp.
        del store.modified["bucket/images/b.jpg"]
        assert source.stamps({"b.jpg"}) == {}


def test_a_damaged_pack_has_no_stamps(packed: Path) -> None:
    source = open_images(packed)
    (packed / "images-00000.parquet").write_bytes(b"PAR1")
    assert source.stamps({"1.jpg"}) == {}
