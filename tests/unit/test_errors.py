"""Errors have exit codes, survive pickling, and show foreign text in one printable line."""

import pickle

import pytest

from distributed_pose import ConfigError, ExecutionError, PoseEvalError, SetupError
from distributed_pose.errors import GateError, first_line, shown


@pytest.mark.parametrize(
    ("kind", "code"), [(ConfigError, 2), (SetupError, 3), (ExecutionError, 4), (GateError, 5)]
)
def test_each_kind_of_error_has_its_exit_code(kind: type[PoseEvalError], code: int) -> None:
    assert issubclass(kind, PoseEvalError)
    assert kind("x").exit_code == code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SetupError("failed"), "failed"),
        (SetupError("failed", "try again"), "failed (try again)"),
        (SetupError("failed", device="cpu:0"), "[device cpu:0] failed"),
        (SetupError("failed", shard=0), "[shard 0] failed"),
        (
            SetupError("failed", "try again", device="cpu:0", shard=3),
            "[device cpu:0, shard 3] failed (try again)",
        ),
    ],
)
def test_the_text_names_device_shard_and_remedy(error: PoseEvalError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("kind", [ConfigError, SetupError, ExecutionError, GateError])
def test_an_error_keeps_all_fields_when_it_is_pickled(kind: type[PoseEvalError]) -> None:
    error = kind("failed", "hint", device="cpu:0", shard=3, image_ids=[1, 2])
    error.device = "cpu:1"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert (copy.device, copy.shard, copy.image_ids) == ("cpu:1", 3, (1, 2))
    assert str(copy) == str(error) == "[device cpu:1, shard 3] failed (hint)"


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("\n bad shape \nframe 1\nframe 2"), "bad shape "), (MemoryError(), "MemoryError")],
)
def test_the_first_line_of_a_librarys_error_is_shown_or_otherwise_its_type(
    error: Exception, line: str
) -> None:
    assert first_line(error) == line


def test_names_from_files_are_shown_in_one_short_printable_line() -> None:
    assert shown("\x1b[2J\nname") == r"\u001b[2J\nname"
    assert shown("名前", 2) == "名前"
    assert shown("abc", 2) == "ab..."
