import pickle

import pytest

from distributed_pose import ConfigError, ExecutionError, PoseEvalError, SetupError


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (SetupError, 3), (ExecutionError, 4)])
def test_each_kind_of_error_has_its_exit_code(kind: type[PoseEvalError], code: int) -> None:
    assert issubclass(kind, PoseEvalError)
    assert kind("x").exit_code == code


def test_the_text_names_device_shard_and_what_to_do() -> None:
    error = ExecutionError("failed", "try again", device="cpu:0", shard=3)
    assert str(error) == "[device cpu:0, shard 3] failed (try again)"


def test_an_error_survives_pickling_whole() -> None:
    error = SetupError("failed", "hint", device="cpu:0", shard=3, image_ids=[1, 2])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is SetupError
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
