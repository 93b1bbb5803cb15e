"""Processes compare the code that they run, and name a difference."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import distributed_pose
from distributed_pose.files.package_identity import difference, package_identity, source_digest


def test_the_same_source_in_another_folder_is_the_same_package() -> None:
    assert difference(replace(package_identity(), path="/elsewhere")) == ""


def test_another_source_is_named_with_both_paths_and_both_digests() -> None:
    mine = package_identity()
    text = difference(replace(mine, path="/elsewhere", digest="0" * 16))
    assert all(part in text for part in (mine.path, mine.digest, "/elsewhere", "0" * 16))


def test_a_process_without_an_identity_runs_another_version() -> None:
    assert "another version" in difference(None)


def test_the_digest_depends_on_the_folders_that_are_left_out() -> None:
    assert source_digest(without=["pose"]) != source_digest(without=["vision"])
    assert source_digest(without=["pose", "vision"]) == source_digest(without=["vision", "pose"])


def test_an_installed_copy_has_the_digest_of_the_checkout(tmp_path: Path) -> None:
    # Links of the checkout become files, as in a wheel.
    shutil.copytree(Path(distributed_pose.__file__).parent, tmp_path / "distributed_pose")
    code = (
        "from distributed_pose.files.package_identity import package_identity as i; "
        "print(i().digest, i().path)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = f"{package_identity().digest} {tmp_path / 'distributed_pose'}"
    assert answer.stdout.strip() == expected


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_that_of_the_checkout_and_says_if_files_differ(tmp_path: Path) -> None:
    source = Path(distributed_pose.__file__).parent / "files" / "package_identity.py"
    module = tmp_path / "code" / "distributed_pose" / "files" / source.name
    module.parent.mkdir(parents=True)
    shutil.copy(source, module)

    def commit() -> str:
        code = f"from distributed_pose.files.{source.stem} import package_commit as p; print(p())"
        command = [sys.executable, "-c", code]
        folder = tmp_path / "code"
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    # A repository around the package's folder is not the package's own.
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "around")
    assert commit() == ""
    git(tmp_path / "code", "init", "--quiet")
    git(tmp_path / "code", "add", "distributed_pose/files/package_identity.py")
    git(tmp_path / "code", "commit", "--quiet", "--message", "own")
    found = commit()
    assert found == git(tmp_path / "code", "rev-parse", "HEAD")
    module.write_text(module.read_text() + "# changed\n")
    assert commit() == f"{found}-dirty"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
