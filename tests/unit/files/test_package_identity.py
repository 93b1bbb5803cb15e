"""Processes compare the code that they run, and name a difference."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
