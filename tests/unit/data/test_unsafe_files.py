"""Only regular files inside the image folder are read; all others are failures of their image."""

import os
import re
from pathlib import Path

import pytest

from distributed_pose.data.packed_groups import MAX_FILE_BYTES
from distributed_pose.data.shards import Shard, image_rows, read_shards
from distributed_pose.data.sources import FolderImages, open_images
from distributed_pose.records.images import Failure, ImageRecord


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "0.jpg").write_bytes(b"zero")
    (folder / "sub" / "1.jpg").write_bytes(b"one")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "images beside").mkdir()
    (tmp_path / "images beside" / "2.jpg").write_bytes(b"beside")
    return folder


def record(name: str) -> ImageRecord:
    return ImageRecord(7, name, 4, 6)


def read(folder: Path, name: str) -> Shard:
    (shard,) = read_shards([record(name)], FolderImages(folder), 8)
    (by_uri,) = read_shards([record(name)], open_images(folder.as_uri()), 8)
    # A URI of a local folder follows the same rules as the folder.
    assert by_uri.images.equals(shard.images)
    assert [reason(failure) for failure in by_uri.failures] == [reason(f) for f in shard.failures]
    return shard


def reason(failure: Failure) -> str:
    """Returns the reason of a failure without the path, which may differ."""
    return failure.reason.rpartition(": ")[2]


def size(folder: Path, name: str) -> int | None:
    found = FolderImages(folder).size(name)
    assert open_images(folder.as_uri()).size(name) == found
    return found


@pytest.mark.parametrize("target", ["0.jpg", "sub/1.jpg", "sub/../0.jpg", "../images/0.jpg"])
def test_a_link_that_stays_inside_is_followed(folder: Path, target: str) -> None:
    (folder / "link.jpg").symlink_to(target)
    ((_, encoded),) = image_rows(read(folder, "link.jpg").images)
    assert encoded == (folder / target).read_bytes()
    assert size(folder, "link.jpg") == len(encoded)


def test_a_link_to_the_folder_is_read_like_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "within").symlink_to("sub")
    for name in ("0.jpg", "sub/1.jpg", "within/1.jpg"):
        assert not read(tmp_path / "link", name).failures
        assert size(tmp_path / "link", name) == (folder / name).stat().st_size


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("../secret.jpg", "out of the folder, to .*secret.jpg"),
        ("sub/../../secret.jpg", "out of the folder"),
        ("../images beside/2.jpg", "out of the folder"),
        ("..", "out of the folder"),
        (".", "out of the folder|not a regular file"),
        ("sub", "not a regular file"),
        ("/dev/null", "out of the folder"),
        ("link.jpg", "symbolic links"),
        ("nowhere", "No such file"),
    ],
)
def test_any_other_link_is_a_failure(folder: Path, target: str, reason: str) -> None:
    (folder / "link.jpg").symlink_to(target)
    shard = read(folder, "link.jpg")
    (failure,) = shard.failures
    assert (failure.image_id, failure.file_name) == (7, "link.jpg")
    assert re.search(reason, failure.reason)
    assert shard.images.num_rows == 0
    assert size(folder, "link.jpg") is None


@pytest.mark.parametrize("name", ["../secret.jpg", "sub/../../secret.jpg", "/etc/passwd", "up/x"])
def test_a_name_that_leaves_the_folder_is_a_failure(folder: Path, name: str) -> None:
    (folder / "up").symlink_to("../images beside")
    assert read(folder, name.replace("up/x", "up/2.jpg")).failures
    assert size(folder, name.replace("up/x", "up/2.jpg")) is None


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg", "x" * 300, "0.jpg/x", "sub"])
def test_a_name_that_no_file_can_have_is_a_failure(folder: Path, name: str) -> None:
    (failure,) = read(folder, name).failures
    assert failure.reason.startswith("cannot read ")
    assert "None" not in failure.reason
    assert size(folder, name) is None


def test_a_pipe_is_a_failure_and_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (failure,) = read(folder, "pipe.jpg").failures
    assert "not a regular file" in failure.reason
    assert size(folder, "pipe.jpg") is None


def test_no_descriptor_is_left_open(folder: Path) -> None:
    names = ["0.jpg", "sub", "nowhere", "sub/1.jpg"]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        for name in names:
            read(folder, name)
            size(folder, name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_over_the_size_limit_is_a_failure_with_its_size(folder: Path) -> None:
    with (folder / "large.jpg").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    (failure,) = read(folder, "large.jpg").failures
    assert f"{MAX_FILE_BYTES + 1} bytes, over the limit of {MAX_FILE_BYTES}" in failure.reason


def test_a_shard_of_large_files_holds_fewer_images(folder: Path) -> None:
    large = 130 * 2**20
    records = [ImageRecord(number, f"{number}.bin", 4, 6) for number in range(4)]
    for image in records:
        with (folder / image.file_name).open("wb") as stream:
            stream.truncate(large if image.image_id < 3 else 5)
    shards = read_shards(records, FolderImages(folder), 4)
    found = [(shard.number, shard.images.column("image_id").to_pylist()) for shard in shards]
    assert found == [(0, [0, 1]), (1, [2, 3])]


@pytest.mark.parametrize("size", [1, 2, 5, 6, 100])
def test_every_image_is_in_exactly_one_shard(folder: Path, size: int) -> None:
    records = [ImageRecord(number, f"{number}.bin", 4, 6) for number in range(11)]
    for image in records[::2]:
        (folder / image.file_name).write_bytes(b"x")
    shards = list(read_shards(records, FolderImages(folder), size))
    counts = [len(shard.failures) + shard.images.num_rows for shard in shards]
    assert counts == [size] * (11 // size) + [11 % size] * (11 % size > 0)
    ids = [
        *(number for shard in shards for number in shard.images.column("image_id").to_pylist()),
        *(failure.image_id for shard in shards for failure in shard.failures),
    ]
    assert sorted(ids) == list(range(11))
