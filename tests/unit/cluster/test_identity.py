"""Which code a process runs, and how a difference is told."""

from dataclasses import replace

from distributed_pose.cluster.identity import difference, package_identity, source_digest


def test_the_same_source_in_another_folder_is_the_same_package() -> None:
    assert difference(replace(package_identity(), path="/elsewhere")) == ""


def test_another_source_is_named_with_both_paths_and_both_digests() -> None:
    mine = package_identity()
    text = difference(replace(mine, path="/elsewhere", digest="0" * 16))
    assert all(part in text for part in (mine.path, mine.digest, "/elsewhere", "0" * 16))


def test_a_process_that_does_not_say_what_it_runs_is_another_version() -> None:
    assert "another version" in difference(None)


def test_the_digest_depends_on_the_files_that_are_asked_for() -> None:
    assert source_digest("pose/*.py") != source_digest("vision/*.py")
    assert source_digest("pose/*.py", "vision/*.py") == source_digest("vision/*.py", "pose/*.py")
