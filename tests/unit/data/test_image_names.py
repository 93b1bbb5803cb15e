"""File names as tools write them, found in an image folder."""

from pathlib import Path

import pytest

from distributed_pose.data.entries import InvalidEntryError, Notes
from distributed_pose.data.image_names import locate_names
from distributed_pose.data.sources import FolderImages, ImageSource, open_images


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
        # Names that are not there stay as they are, to be named when they cannot be read.
        (["none/8.jpg", "none/9.jpg"], ["none/8.jpg", "none/9.jpg"], False),
        # Folders that are not shared tell images apart.
        (["x/1.jpg", "y/2.jpg"], ["x/1.jpg", "y/2.jpg"], False),
    ],
)
def test_names_are_found_without_folders_that_all_share(
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
def test_names_that_lead_out_are_refused(folder: Path, names: list[str]) -> None:
    for source in (FolderImages(folder), open_images(folder.as_uri()), None):
        with pytest.raises(InvalidEntryError, match="leaves the image folder"):
            locate_names(names, source, Notes())


def test_without_images_to_read_only_separators_are_changed() -> None:
    notes = Notes()
    assert [*locate_names(["val\\1.jpg"], None, notes)] == ["val/1.jpg"]
    assert notes.lines == ("File names with backslashes are read with slashes.",)


@pytest.mark.parametrize(("first", "looks"), [("a/3.jpg", 1), ("1.jpg", 0)])
def test_names_that_are_there_cost_one_look_at_the_folder_at_most(
    folder: Path, first: str, looks: int
) -> None:
    class Counting:
        location = str(folder)
        looks = 0

        def read(self, name: str) -> bytes:
            raise AssertionError(name)

        def size(self, name: str) -> int | None:
            self.looks += 1
            return FolderImages(folder).size(name)

    source = Counting()
    checked: ImageSource = source
    others = [f"{first[:-5]}{number}.jpg" for number in range(1000)]
    locate_names([first, *others], checked, Notes())
    assert source.looks == looks
