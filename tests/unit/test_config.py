from pathlib import Path

import pytest
from pydantic import ValidationError

from distributed_pose import ConfigError, RunConfig, load_config


def test_every_key_has_a_default() -> None:
    assert load_config() == RunConfig()


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("batch_size: 2\nreducers: 3\ndata:\n  limit: 7\n")
    config = load_config(path, ["batch_size=4", "batch_size=5", "data.images=pictures"])
    assert (config.batch_size, config.reducers, config.data.limit) == (5, 3, 7)
    assert config.data.images == Path("pictures")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.anotations=x", "unknown key 'data.anotations'; did you mean 'data.annotations'"),
        ("batchsize=4", "unknown key 'batchsize'; did you mean 'batch_size'"),
        ("images=x", "did you mean 'data.images'"),
        ("zzzz=1", "valid: backend, batch_size"),
        ("batch_size='8'", "batch_size: "),
        ("batch_size=true", "batch_size: "),
        ("batch_size=1.5", "batch_size: "),
        ("batch_size=0", "batch_size: .*not 0"),
        ("data.limit=-1", "data.limit: "),
        ("data=5", "data: "),
        ("profile=modelzo", "profile: .*did you mean 'modelzoo'"),
        ("precision=fp32", "precision: .*did you mean 'f32'"),
        ("devices=tpu", "devices: 'tpu' is no device"),
        ("devices=cpu:0", "devices: 'cpu:0' is no device"),
        ("devices=[]", "devices: needs at least one"),
        ("data.images.x=1", "--set data.images.x"),
        ("=1", "expected dotted.key=value"),
        ("batch_size", "expected dotted.key=value"),
        ("batch_size=[1", "is not a YAML value"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, ["data.images=a", override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", ("auto",)), ("cpu:2", ("cpu:2",)), ("[cpu, 'cpu:2']", ("cpu", "cpu:2"))],
)
def test_devices_are_one_or_a_list(text: str, expected: tuple[str, ...]) -> None:
    assert load_config(None, [f"devices={text}"]).devices == expected


@pytest.mark.parametrize(
    "content", [b"- a\n- b\n", b"a: [", b"\xff\xfe\xff", b"!!python/object/apply:os.getcwd []"]
)
def test_a_file_that_is_no_mapping_is_an_error_that_names_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)


def test_a_missing_file_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(Path("nowhere.yaml"))


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.touch()
    assert load_config(path) == RunConfig()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RunConfig().batch_size = 3  # type: ignore[misc]
