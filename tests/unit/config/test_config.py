"""Configurations are merged from defaults, file and overrides, and errors name their key."""

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distributed_pose import ConfigError, RunConfig, load_config
from distributed_pose.config.schema import ProfileName
from distributed_pose.vision.profiles import PROFILES


def test_every_key_has_a_default() -> None:
    assert load_config() == RunConfig()


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("batch_size: 2\nreducers: 3\ndata:\n  limit: 7\n")
    config = load_config(path, ["batch_size=4", "batch_size=5", "data.images=pictures"])
    assert (config.batch_size, config.reducers, config.data.limit) == (5, 3, 7)
    assert str(config.data.images) == "pictures"


def test_a_kind_of_device_has_the_common_settings_unless_it_has_its_own() -> None:
    overrides = ["precision=f32", "batch_size=2", "npu.batch_size=auto", "cuda.precision=f16"]
    config = load_config(None, overrides)
    assert config.on("cpu") == ("auto", "f32", 2)
    assert config.on("npu") == ("auto", "f32", "auto")
    assert config.on("cuda") == ("auto", "f16", 2)


def test_every_profile_can_be_named_and_bears_its_name() -> None:
    assert get_args(ProfileName) == tuple(PROFILES)
    for name, profile in PROFILES.items():
        assert load_config(None, [f"profile={name}"]).profile == profile.name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.anotations=x", "unknown key 'data.anotations'; did you mean 'data.annotations'"),
        ("batchsize=4", "unknown key 'batchsize'; did you mean 'batch_size'"),
        ("images=x", "did you mean 'data.images'"),
        ("dump_maps=s3://bucket/maps", "dump_maps: must be a path on a mounted filesystem"),
        ("model.path=s3://a:secret@b/m", r"model.path: .* not a URI, as 's3://\*\*\*@b/m' is"),
        ("model.path=http://host/m?sig=secret", r"not a URI, as 'http://host/m\?sig=\*\*\*' is"),
        ("zzzz=1", "valid: allow_failures, backend, batch_size"),
        ("batch_size='8'", "batch_size: "),
        ("batch_size=true", "batch_size: "),
        ("batch_size=1.5", "batch_size: "),
        ("batch_size=0", "batch_size: .*not 0"),
        ("batch_size=null", "batch_size: "),
        ("batch_size=Auto", "batch_size: must be a count from 1, or 'auto', not 'Auto'"),
        ("cuda.batch_size=0", "cuda.batch_size: must be a count from 1"),
        ("npu.backend=ascent", "npu.backend: .*did you mean 'ascend'"),
        ("npu.precision=fp16", "npu.precision: .*did you mean 'f16'"),
        ("npu.sok=1", "unknown key 'npu.sok'; did you mean 'npu.soc'"),
        ("npu.soc='310 P3'", "npu.soc: '310 P3' is not an Ascend chip: name it as"),
        ("npu.soc=davinci", "npu.soc: 'davinci' is not an Ascend chip"),
        ("cuda.workers_per_device=0", "cuda.workers_per_device: input should be greater"),
        ("npu.workers_per_device=2", "unknown key 'npu.workers_per_device'"),
        ("cuda.soc=310", "unknown key 'cuda.soc'"),
        ("devices=cuda", "devices: 'cuda' is not a device.*'cuda:\\*'"),
        ("devices=npu:01", "devices: 'npu:01' is not a device"),
        ("batch_size=99999999999999999999", "batch_size: "),
        ("data.limit=-1", "data.limit: "),
        ("data.limit=true", "data.limit: "),
        ("data={images: 5}", "data.images: "),
        ('data.images="a\\0b"', "data.images: .*null byte"),
        ("data=5", "data: "),
        ("profile=modelzo", "profile: .*did you mean 'modelzoo'"),
        ("precision=fp32", "precision: .*did you mean 'f32'"),
        ("devices=tpu", "devices: 'tpu' is not a device"),
        ("devices=cpu:0", "devices: 'cpu:0' is not a device"),
        ("devices=cpu:-1", "devices: 'cpu:-1' is not a device"),
        ("devices=[]", "devices: needs at least one"),
        ("devices=[auto, cpu]", "devices: 'auto' is not a device"),
        ("devices=3", "devices: "),
        ("data.images.x=1", "--set data.images.x"),
        ("=1", "expected dotted.key=value"),
        ("batch_size", "expected dotted.key=value"),
        ("batch_size=2020-13-45", "batch_size: .*'2020-13-45'"),
        ("batch_size=1:30", "batch_size: .*'1:30'"),
        ("batch_size=yes", "batch_size: .*'yes'"),
        ("batch_size=" + "[" * 5000, "--set batch_size: .*is not a YAML value"),
        ("batch_size=[1", "--set batch_size: .*is not a YAML value"),
        ("1=2", "keys should be strings|unknown key"),
    ],
)
def test_a_wrong_setting_is_named_by_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, ["data.images=a", override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ("auto",)),
        ("cpu:2", ("cpu:2",)),
        ("[cpu, 'cpu:2']", ("cpu", "cpu:2")),
        ("[npu:*, cuda:0, cpu:2]", ("npu:*", "cuda:0", "cpu:2")),
    ],
)
def test_devices_are_one_or_a_list(text: str, expected: tuple[str, ...]) -> None:
    assert load_config(None, [f"devices={text}"]).devices == expected


@pytest.mark.parametrize(
    "content",
    [
        b"- a\n- b\n",
        b"batch_size",
        b"a: [",
        b"\xff\xfe\xff",
        b"a: !!timestamp 2020-13-45",
        b"[" * 5000,
    ],
)
def test_a_file_that_is_not_a_mapping_is_an_error_that_names_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)


def test_yaml_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    made = tmp_path / "made"
    value = f"!!python/object/apply:os.mkdir ['{made}']"
    path = tmp_path / "run.yaml"
    path.write_text(f"data: {{images: {value}}}")
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"--set batch_size"):
        load_config(None, [f"batch_size={value}"])
    # A path is its text.
    assert str(load_config(None, [f"data.images={value}"]).data.images) == value
    assert not made.exists()


@pytest.mark.parametrize(
    "text",
    [
        *("2026-11-26", "5", "007", "1e3", "yes", "=", "<<", "a: b", "a #b", "[a", "*a", "&a"),
        *("~user", "null.png", "1:30", "0x10", "@a", "%a", "`a", "- a", "\udc80", " a"),
    ],
)
def test_a_path_or_name_of_an_override_is_its_text_whatever_yaml_takes_it_for(text: str) -> None:
    config = load_config(None, [f"data.images={text}", f"model.path={text}", "npu.soc=310"])
    assert (str(config.data.images), str(config.model.path)) == (text, text)
    assert config.npu.soc == "310"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("null", None), ("~", None), ("", None), ('"null"', "null"), ("'a'", "a")],
)
def test_a_path_of_an_override_may_be_unset_or_in_quotes(value: str, expected: str | None) -> None:
    images = load_config(None, ["data.images=a", f"data.images={value}"]).data.images
    assert (images and str(images)) == expected


def test_scalars_of_a_file_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {images: 2026-11-26, annotations: yes}\ndeadline_s: 1e2\n")
    config = load_config(path)
    assert (str(config.data.images), str(config.data.annotations)) == ("2026-11-26", "yes")
    assert config.deadline_s == 100.0


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"profile: .*; batch_size: "):
        load_config(None, ["batch_size=0", "profile=none"])


def test_a_missing_file_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(Path("nowhere.yaml"))


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.touch()
    assert load_config(path) == RunConfig()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RunConfig().batch_size = 3


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS + "batch_size: *p", "has no aliases"),
        ("batch_size: &a [*a]", "has no aliases"),
        ("base: &a {limit: 3}\ndata: {<<: *a}", "has no aliases"),
        ("batch_size: !!timestamp soon", "is not YAML"),
        ("batch_size: !!int ''", "is not YAML"),
        ("batch_size: !!bool maybe", "not have the type of its tag"),
        ("batch_size: 0x" + "f" * 5000, "a count from 1"),
        ("batch_size: " + "9" * 5000, "a count from 1.* not inf"),
        ("batch_size: " + "1:" * 50_000 + "1", "a count from 1"),
        ("batch_size: !!binary aGk=", "is not YAML"),
        ("batch_size: !!merge x", "is not YAML"),
        ("data: !!set {images}", "is not YAML"),
        ("backend: " + "9" * 5000, "backend: .* not inf"),
        ("batch_size: " + "{a: " * 90 + "1" + "}" * 90, "a count from 1"),
        ("\n".join(" " * depth + "a:" for depth in range(700)), "is not YAML"),
        ("batch_size: " + "x" * 100_000, "a count from 1"),
        ("? " + "x" * 1000 + "\n: 1", "unknown key 'x+\\.\\.\\.'"),
        ('"a\\nb": 1', "unknown key 'a b'"),
        ("\n".join(f"key{number}: 1" for number in range(1000)), "and 980 more"),
        ('data: {images: "\\ud800"}', "data.images: .*surrogates"),
        ("#" * (2**18 + 1), "over the limit of 262144"),
        ("? [a]\n: b", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("data: null", "data: "),
    ],
)
def test_yaml_that_is_made_to_do_harm_is_a_short_error(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(path)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 5000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size={a: &a [1], b: *a}", "--set batch_size: .*is not a YAML value"),
        ("batch_size=!!int ''", "--set batch_size: .*is not a YAML value"),
        ("batch_size=" + "[" * 100_000, "--set batch_size: .*is not a YAML value"),
        ("batch_size" + ".a" * 5000 + "=1", "batch_size: .* too long to show"),
        ("batch_size=0x" + "f" * 5000, "batch_size: "),
        ("data.images=\ud800", "data.images: .*surrogates"),
        ("batch_size=\udc80", "--set batch_size: .*is not a YAML value"),
        ("engine=" + "[" * 300 + "]" * 300, "engine: "),
    ],
)
def test_an_override_that_is_made_to_do_harm_is_a_short_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(None, [override])
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "cannot read .*a folder"),
        ("a\0b", "cannot read .*null byte"),
        ("x" * 300, "cannot read .*too long"),
        ("/dev/zero", "cannot read .*a device"),
    ],
)
def test_a_path_that_leads_to_no_configuration_is_an_error(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(Path(path))
    assert len(str(raised.value).splitlines()) == 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    content=st.lists(
        st.sampled_from(
            [
                *("data", "images", "batch_size", "devices", "profile", ": ", ":", "\n", "\n  "),
                *("- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "!!set ", "!!binary "),
                *("!!timestamp ", "!!omap ", "? ", "| ", "> ", '"', "'", "~", "1", "0x1f", "1e9"),
                *(".nan", "2020-13-01", "<<", "---", "...", "%YAML 9.9", "#", "\t", "\0", "é"),
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_a_configuration_or_an_error_of_one_line(content: str) -> None:
    with NamedTemporaryFile(suffix=".yaml") as file:
        Path(file.name).write_text(content)
        try:
            config = load_config(Path(file.name))
        except ConfigError as error:
            lines = str(error).splitlines()
        else:
            lines = [config.model_dump_json()]
    assert len(lines) == 1


@pytest.mark.parametrize("size", ["256x456", "8x4096", "0256x456"])
def test_an_input_size_is_height_by_width(size: str) -> None:
    height, width = map(int, size.split("x"))
    config = load_config(None, [f"input={size}"])
    assert config.input_size == (height, width)
    assert config.input == f"{height}x{width}"


@pytest.mark.parametrize("size", ["256", "256x450", "0x8", "8x4104", "256X456", "x", "-8x8", "8"])
def test_another_input_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="input"):
        load_config(None, [f"input={size}"])
