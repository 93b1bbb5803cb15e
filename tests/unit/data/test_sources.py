"""Images behind URIs and in packed shards."""

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
from distributed_pose.records import Failure
from tests.conftest import Dataset


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
    # Not in their order, so that groups are left and come back to.
    for image in (*index.images[::3], *index.images[::-2]):
        assert source.read(image.file_name) == folder.read(image.file_name)
        assert source.size(image.file_name) == folder.size(image.file_name)
    again = open_images(source.location)
    assert again.read(index.images[0].file_name) == folder.read(index.images[0].file_name)


@pytest.mark.parametrize("opened", [by_uri, from_packed])
def test_an_image_that_is_not_there_is_a_failure_that_names_it(
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
def test_an_image_beyond_the_limit_is_not_read(
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


def test_what_only_ends_like_a_packed_file_is_a_failure(tmp_path: Path, index: CocoIndex) -> None:
    (tmp_path / "images-00000.parquet").write_bytes(b"no parquet")
    failure = read_image(index.images[0], open_images(str(tmp_path)))
    assert isinstance(failure, Failure)
    assert "is no packed dataset" in failure.reason


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_packed_file_that_leads_out_of_its_folder_is_a_failure(
    packed: Path, index: CocoIndex, tmp_path: Path, form: str
) -> None:
    (tmp_path / "linked").mkdir()
    for path in packed.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    failure = read_image(index.images[0], open_images(form.format(tmp_path / "linked")))
    assert isinstance(failure, Failure)
    assert "it leads out of the folder" in failure.reason


def test_images_behind_a_uri_are_those_of_the_folder_that_it_names(
    people: Dataset, index: CocoIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder, 100% @home?"
    folder.symlink_to(people.images)
    source = open_images(folder.as_uri())
    assert isinstance(source, FolderImages)
    assert str(source.location) == folder.as_uri()
    name = index.images[0].file_name
    assert source.read(name) == (people.images / name).read_bytes()


def test_a_packed_file_without_the_columns_is_a_failure(tmp_path: Path, index: CocoIndex) -> None:
    pq.write_table(pa.table({"name": ["a.jpg"]}), tmp_path / "a.parquet")
    assert isinstance(read_image(index.images[0], open_images(str(tmp_path))), Failure)


@pytest.mark.parametrize("location", ["nowhere", "file:///nowhere", "gopher://x/y"])
def test_a_place_without_images_is_a_setup_error(location: str) -> None:
    with pytest.raises(SetupError, match=r"nowhere is no folder|cannot open gopher"):
        open_images(location)


def test_a_packed_dataset_has_its_annotations_and_groups_of_few_images(
    people: Dataset, packed: Path
) -> None:
    kept = load_index(packed / ANNOTATIONS)
    assert kept.images == load_index(people.annotations).images
    with pq.ParquetFile(packed / "images-00000.parquet") as file:
        assert file.schema_arrow == PACKED
        assert file.metadata.row_group(0).num_rows <= 16
    assert not list(packed.glob("*.partial"))


def test_of_a_limited_dataset_the_rest_is_left_out_of_the_annotations(
    people: Dataset, tmp_path: Path
) -> None:
    limited = load_index(people.annotations, limit=3)
    pack_dataset(limited, FolderImages(people.images), tmp_path.as_uri())
    kept = load_index(tmp_path / ANNOTATIONS)
    assert kept.images == limited.images
    assert not kept.is_partial


def test_a_folder_with_packed_images_is_not_packed_into(
    people: Dataset, packed: Path, index: CocoIndex
) -> None:
    with pytest.raises(SetupError, match="holds packed images"):
        pack_dataset(index, FolderImages(people.images), str(packed))


def test_an_image_that_cannot_be_read_is_not_left_out(index: CocoIndex, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExecutionError, match=index.images[0].file_name):
        pack_dataset(index, FolderImages(tmp_path / "empty"), str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.parquet"))
