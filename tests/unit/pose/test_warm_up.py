"""How processes that warm up at the same time share the kernels."""

import fcntl
from functools import partial
from pathlib import Path

import pytest

from distributed_pose.pose.warm_up import share_first_calls


def test_a_kernel_that_another_process_compiles_is_called_last(tmp_path: Path) -> None:
    called: list[str] = []
    with (tmp_path / "first.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def second() -> None:
            called.append("second")
            fcntl.flock(other, fcntl.LOCK_UN)

        share_first_calls(
            {"first": lambda: called.append("first"), "second": second}, tmp_path / "mark"
        )
    assert called == ["second", "first"]


def test_a_kernel_is_locked_while_it_is_called(tmp_path: Path) -> None:
    def first() -> None:
        with (tmp_path / "first.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    share_first_calls({"first": first}, tmp_path / "mark")


def test_all_kernels_are_called_where_no_file_can_be_written(tmp_path: Path) -> None:
    called: list[str] = []
    calls = {name: partial(called.append, name) for name in ("a", "b")}
    share_first_calls(calls, tmp_path / "missing" / "mark")
    assert called == ["a", "b"]


def test_the_folder_is_marked_as_complete_only_after_the_last_call(tmp_path: Path) -> None:
    mark, existed = tmp_path / "mark", []
    calls = {name: lambda: existed.append(mark.exists()) for name in ("a", "b")}
    share_first_calls(calls, mark)
    assert existed == [False, False]
    assert mark.exists()
