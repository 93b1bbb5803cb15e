"""Files are read within limits and written atomically, on disks and in folders behind URIs."""

import os
from pathlib import Path

import pytest

from distributed_pose import ExecutionError, SetupError
from distributed_pose.files.local import (
    read_regular,
    sha256_hex,
    user_cache_folder,
    write_atomically,
)
from distributed_pose.files.storage import Folder


def test_a_file_is_replaced_completely_without_a_remaining_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_atomically(path, "first")
    write_atomically(path, b"second")
    assert path.read_text() == "second"
    assert [*path.parent.iterdir()] == [path]


def test_a_file_that_cannot_be_written_is_named_and_no_temporary_file_remains(
    tmp_path: Path,
) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(ExecutionError, match="taken"):
        write_atomically(path, "content")
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(ExecutionError, match="taken"):
        write_atomically(tmp_path / "taken" / "file.txt", "content")


def test_a_new_file_can_be_read_by_other_users(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file.txt", "content")
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_allows(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "folder" / "file", "content")
    finally:
        os.umask(before)
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o4755])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    write_atomically(path, "content")
    assert path.stat().st_mode & 0o7777 == mode & 0o777


def test_a_file_in_a_shared_folder_has_the_group_of_the_folder(tmp_path: Path) -> None:
    group = next((group for group in os.getgroups() if group != os.getegid()), None)
    if group is None and os.geteuid():
        pytest.skip("there is no other group")
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, -1, 4242 if group is None else group)
    shared.chmod(0o2775)
    write_atomically(shared / "folder" / "file", "content")
    assert (shared / "folder" / "file").stat().st_gid == shared.stat().st_gid


def test_a_link_is_replaced_without_a_change_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    for target in ("target", "nothing"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        write_atomically(tmp_path / "link", "content")
        assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in (("pipe", "pipe"), ("null", "device")):
        path = tmp_path / name
        with pytest.raises(ExecutionError, match=rf"cannot write {path}: .* but a {kind}"):
            write_atomically(path, "content")
        assert not path.is_file()


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    assert read_regular(path, 1000) == bytes(1000)
    with pytest.raises(OSError, match="it has 1000 bytes, over the limit of 999"):
        read_regular(path, 999)
    path.write_bytes(b"")
    assert read_regular(path, 0) == b""


def test_a_file_without_a_size_is_read_up_to_its_limit() -> None:
    # The kernel generates these files while they are read.
    assert b"VmRSS" in read_regular("/proc/self/status", 2**16)
    with pytest.raises(OSError, match="over the limit of 100"):
        read_regular("/proc/self/status", 100)
    with pytest.raises(OSError, match="over the limit of 3000000"):
        read_regular("/proc/self/pagemap", 3_000_000)


def test_a_full_disk_leaves_the_existing_file_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.txt"
    write_atomically(path, "first")
    monkeypatch.setattr(os, "fsync", is_full)
    with pytest.raises(ExecutionError, match=rf"cannot write {path}: No space left on device"):
        write_atomically(path, "second")
    assert path.read_text() == "first"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(("durable", "syncs"), [(True, 1), (False, 0)])
def test_only_the_write_of_a_durable_file_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool, syncs: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_atomically(tmp_path / "one.txt", "content", durable=durable)
    assert len(synced) == syncs
    Folder(tmp_path).write("two.txt", "content", durable=durable)
    assert len(synced) == 2 * syncs
    assert (tmp_path / "two.txt").read_text() == "content"


def test_content_is_identified_by_its_sha256() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_hex(b"abc") == expected


# A path and a URI on disk, and pyarrow's file system in memory.
@pytest.fixture(params=["{}/run", "file://{}/run", "mock:///run"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(request.param.format(tmp_path))


def test_a_folder_is_shown_in_the_form_in_which_it_was_given(tmp_path: Path) -> None:
    assert str(Folder(tmp_path / "run")) == f"{tmp_path}/run"
    assert str(Folder("mock:///run")) == "mock:///run"


def test_content_written_to_a_folder_is_read_back_unchanged(folder: Folder) -> None:
    folder.write("ledger/deep/file", b"\0\xff")
    folder.write("text", "é")
    assert folder.read("ledger/deep/file") == b"\0\xff"
    assert folder.read("text").decode() == "é"


def test_a_file_of_a_folder_is_replaced_completely(folder: Folder) -> None:
    folder.write("ledger/file", b"a long content")
    folder.write("ledger/file", b"short")
    assert folder.read("ledger/file") == b"short"
    assert folder.names("ledger") == ["ledger/file"]


def test_the_files_of_a_folder_are_listed_by_name_without_its_subfolders(
    folder: Folder,
) -> None:
    for name in ("ledger/b", "ledger/a", "ledger/folder/c", "beside"):
        folder.write(name, "content")
    assert folder.names("ledger") == ["ledger/a", "ledger/b"]


def test_a_missing_folder_has_no_files(folder: Folder) -> None:
    assert folder.names("ledger") == []


def test_a_deleted_file_is_neither_listed_nor_read(folder: Folder) -> None:
    folder.write("ledger/a", "content")
    folder.write("ledger/b", "content")
    folder.delete("ledger/a")
    assert folder.names("ledger") == ["ledger/b"]
    with pytest.raises(OSError, match="ledger/a"):
        folder.read("ledger/a")


def test_a_missing_file_cannot_be_deleted(folder: Folder) -> None:
    with pytest.raises(ExecutionError, match=rf"{folder}/ledger/a"):
        folder.delete("ledger/a")


def test_a_path_and_a_uri_are_the_same_folder(tmp_path: Path) -> None:
    Folder(tmp_path / "run").write("ledger/a", "content")
    assert Folder(f"file://{tmp_path}/run").read("ledger/a") == b"content"


def test_a_relative_path_does_not_follow_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder.write("file", "content")
    assert (tmp_path / "run" / "file").read_text() == "content"


@pytest.mark.parametrize("location", ["{}/taken", "file://{}/taken"])
def test_a_file_of_a_folder_that_cannot_be_written_is_named_and_no_other_file_remains(
    tmp_path: Path, location: str
) -> None:
    (tmp_path / "taken").touch()
    folder = Folder(location.format(tmp_path))
    with pytest.raises(ExecutionError, match=rf"cannot write {folder}/ledger/a: "):
        folder.write("ledger/a", "content")
    assert [*tmp_path.iterdir()] == [tmp_path / "taken"]


@pytest.mark.parametrize("location", ["{}", "file://{}"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, location: str) -> None:
    (tmp_path / "ledger").touch()
    folder = Folder(location.format(tmp_path))
    with pytest.raises(SetupError, match=rf"cannot list {folder}/ledger: "):
        folder.names("ledger")


@pytest.mark.parametrize("location", ["gopher://host/run", "file://host/run", "://run"])
def test_a_uri_without_a_filesystem_is_refused(location: str) -> None:
    with pytest.raises(SetupError, match=f"cannot open {location}: ") as caught:
        Folder(location)
    assert "--output" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_the_cache_of_a_user_without_a_home_is_a_private_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = user_cache_folder()
    assert folder.is_dir()
    assert "no cache can be kept" in caplog.text
    assert user_cache_folder() == folder
    assert folder.parent.stat().st_mode & 0o077 == 0
