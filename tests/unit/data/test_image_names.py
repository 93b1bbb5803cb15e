"""File names of annotation files are matched with an image folder and never leave it."""

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from distributed_pose.data.entries import InvalidEntryError, Notes
from distributed_pose.data.image_names import locate_names
from distributed_pose.data.sources import FolderImages, ImageSource, open_images
from distributed_pose.locations import Location


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.jpg", "2.jpg", "a/3.jpg", "b/4.jpg", "odd\\5.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("names", "located", "changed"),
    [
        (["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"], False),
        (["1.jpg", "none.jpg"], ["1.jpg", "none.jpg"], False),
        (["odd\\5.jpg"], ["odd\\5.jpg"], False),
        (["./1.jpg", "a//3.jpg"], ["./1.jpg", "a//3.jpg"], False),
        (["a\\3.jpg", "b\\4.jpg"], ["a/3.jpg", "b/4.jpg"], True),
        (["val2017/1.jpg", "val2017/2.jpg"], ["1.jpg", "2.jpg"], True),
        (["val2017\\a\\3.jpg", "val2017\\b\\4.jpg"], ["a/3.jpg", "b/4.jpg"], True),
        (["/home/me/data/1.jpg", "/home/me/data/2.jpg"], ["1.jpg", "2.jpg"], True),
        (["/home/me/a/3.jpg", "/home/me/b/4.jpg"], ["a/3.jpg", "b/4.jpg"], True),
        (["C:\\me\\1.jpg", "C:\\me\\2.jpg"], ["1.jpg", "2.jpg"], True),
        (["../../upload/1.jpg", "../../upload/2.jpg"], ["1.jpg", "2.jpg"], True),
        (["https://host/x/1.jpg", "https://host/x/2.jpg"], ["1.jpg", "2.jpg"], True),
        # Missing names stay unchanged, so that errors show them as the file has them.
        (["none/8.jpg", "none/9.jpg"], ["none/8.jpg", "none/9.jpg"], False),
        # Folders that differ between images are not removed.
        (["x/1.jpg", "y/2.jpg"], ["x/1.jpg", "y/2.jpg"], False),
    ],
)
def test_names_are_located_without_the_folders_that_all_of_them_share(
    folder: Path, names: list[str], located: list[str], changed: bool
) -> None:
    notes = Notes()
    assert [*locate_names(names, FolderImages(folder), notes)] == located
    assert bool(notes.lines) == changed


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "../secret.jpg"],
        ["../secret.jpg"],
        ["../secret.jpg", "../images/1.jpg"],
        ["/etc/passwd", "/etc/hosts"],
        ["1.jpg", "/etc/passwd"],
        ["..\\secret.jpg"],
        ["/1.jpg", "/../secret.jpg"],
    ],
)
def test_names_that_leave_the_folder_are_refused(folder: Path, names: list[str]) -> None:
    for source in (FolderImages(folder), open_images(folder.as_uri()), None):
        with pytest.raises(InvalidEntryError, match="leaves the image folder"):
            locate_names(names, source, Notes())


def test_only_separators_are_changed_if_no_images_are_read() -> None:
    notes = Notes()
    assert [*locate_names(["val\\1.jpg"], None, notes)] == ["val/1.jpg"]
    assert notes.lines == ("File names with backslashes are read with slashes.",)


@pytest.mark.parametrize(("first", "look_ups"), [("a/3.jpg", 1), ("1.jpg", 0)])
def test_existing_names_cost_at_most_one_look_up_in_the_folder(
    folder: Path, first: str, look_ups: int
) -> None:
    class Counting:
        location = Location(folder)
        look_ups = 0

        def read(self, name: str) -> bytes:
            raise AssertionError(name)

        def size(self, name: str) -> int | None:
            self.look_ups += 1
            return FolderImages(folder).size(name)

        def stamps(self, names: Collection[str]) -> Mapping[str, str]:
            raise AssertionError(names)

    source = Counting()
    checked: ImageSource = source
    others = [f"{first[:-5]}{number}.jpg" for number in range(1000)]
    locate_names([first, *others], checked, Notes())
    assert source.look_ups == look_ups
