"""Images and their stamps are the same from a folder, a URI and packed files."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed_pose import SetupError
from distributed_pose.data import packed_images, sources
from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import FolderImages, ImageSource, open_images
from distributed_pose.records.images import Failure
from tests.conftest import Dataset
from tests.object_store import object_store


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


@pytest.mark.parametrize(("opened", "module"), [(by_uri, sources), (from_packed, packed_images)])
def test_an_image_over_the_size_limit_is_not_read(
    people: Dataset,
    index: CocoIndex,
    packed: Path,
    opened: Callable[..., ImageSource],
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = opened(people, packed)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
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


@pytest.mark.parametrize("location", ["nowhere", "file:///nowhere", "gopher://x/y"])
def test_a_location_that_cannot_be_opened_is_a_setup_error(location: str) -> None:
    with pytest.raises(SetupError, match=r"nowhere is not a folder|cannot open gopher"):
        open_images(location)


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
    source = open_images(str(packed))
    (packed / "images-00000.parquet").write_bytes(b"PAR1")
    assert source.stamps({"1.jpg"}) == {}
