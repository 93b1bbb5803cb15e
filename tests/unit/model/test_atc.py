"""The Ascend compiler is called with exact commands, and its results are checked."""

import importlib
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import ConfigError, SetupError
from distributed_pose.backends.base import BackendOptions
from distributed_pose.backends.registry import open_backend
from distributed_pose.devices.ascend import soc_version
from distributed_pose.model.atc import AtcSpec, aipp_text, atc_command, run_atc
from tests.fakes.ascend import FOLDER, HEIGHT, WIDTH, FakeCann, install_cann, network, stand_ins
from tests.unit.backends.test_ascend import assert_equal, batch, expected

GUIDE = "atc --framework=5 --model=M.onnx --output=M_bs1 --input_format=NCHW "

AIPP_TEXT = """\
aipp_op {
    aipp_mode: static
    related_input_rank: 0
    input_format: RGB888_U8
    src_image_size_w: 640
    src_image_size_h: 368
    crop: false
    csc_switch: false
    rbuv_swap_switch: false
    mean_chn_0: 128
    mean_chn_1: 128
    mean_chn_2: 128
    min_chn_0: 0.0
    min_chn_1: 0.0
    min_chn_2: 0.0
    var_reci_chn_0: 0.00390625
    var_reci_chn_1: 0.00390625
    var_reci_chn_2: 0.00390625
}
"""


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        (
            AtcSpec("310"),
            f'{GUIDE}--input_shape="data:1,3,368,640" --log=error --soc_version=Ascend310',
        ),
        (
            AtcSpec("310P3", (64,)),
            f'{GUIDE}--input_shape="data:64,3,368,640" --log=error --soc_version=Ascend310P3',
        ),
        (
            AtcSpec("310P3", (1, 2, 4, 8), dynamic_batch=True),
            (
                f'{GUIDE}--input_shape="data:-1,3,368,640" --log=error --soc_version=Ascend310P3 '
                '--dynamic_batch_size="1,2,4,8"'
            ),
        ),
        (
            AtcSpec("Ascend310P3", (4,), aipp=True),
            (
                f'{GUIDE}--input_shape="data:4,3,368,640" --log=error --soc_version=Ascend310P3 '
                "--insert_op_conf=aipp.cfg"
            ),
        ),
        (
            AtcSpec("310B1", precision="f32", input_name="x", height=256, width=512),
            (
                f'{GUIDE}--input_shape="x:1,3,256,512" --log=error --soc_version=Ascend310B1 '
                "--precision_mode=must_keep_origin_dtype"
            ),
        ),
        (
            AtcSpec("910B4-1", precision="f32"),
            (
                f'{GUIDE}--input_shape="data:1,3,368,640" --log=error --soc_version=Ascend910B4-1 '
                "--precision_mode=must_keep_origin_dtype --op_precision_mode=no_hf32.ini"
            ),
        ),
    ],
)
def test_the_commands_are_those_of_the_guide(spec: AtcSpec, command: str) -> None:
    assert atc_command(spec, Path("M.onnx"), Path("M_bs1")) == shlex.split(command)


@pytest.mark.parametrize("soc", ["910B1", "910B4-1", "910_9392", "950PR_9579"])
def test_float32_is_not_computed_in_hf32_on_chips_that_have_it(soc: str) -> None:
    wanted = "[ByOpType]\nConv2D=enable_float_32_execution\n"
    assert AtcSpec(soc, precision="f32").files == {"no_hf32.ini": wanted}
    assert AtcSpec(soc, precision="f16").files == {}


def test_the_command_of_a_run_works_in_a_shell() -> None:
    spec = AtcSpec("310", input_name="the input")
    command = atc_command(spec, Path("a model.onnx"), Path("M"))
    assert shlex.split(shlex.join(command)) == command
    assert "'--model=a model.onnx'" in shlex.join(command)


def test_aipp_subtracts_128_divides_by_256_and_keeps_the_order_of_channels() -> None:
    assert aipp_text() == AIPP_TEXT


@pytest.mark.parametrize(
    ("name", "soc"),
    [
        ("310", "Ascend310"),
        ("310P3", "Ascend310P3"),
        ("310p3", "Ascend310P3"),
        ("ascend310p3", "Ascend310P3"),
        ("Ascend310P3", "Ascend310P3"),
        ("910ProA", "Ascend910ProA"),
        ("910prob", "Ascend910ProB"),
        ("ascend910premiuma", "Ascend910PremiumA"),
        ("310p3vir01", "Ascend310P3Vir01"),
        ("910_9391", "Ascend910_9391"),
        ("910b4-1", "Ascend910B4-1"),
        ("Ascend910B4-1", "Ascend910B4-1"),
        ("950pr_9579", "Ascend950PR_9579"),
    ],
)
def test_a_chip_can_be_named_with_or_without_its_prefix(name: str, soc: str) -> None:
    assert soc_version(name) == AtcSpec(name).soc_version == soc


@pytest.mark.parametrize("name", ["", "T4", "Ascend", "310P3 --debug_dir=x", "Ascend 310"])
def test_a_name_that_is_not_a_chip_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="is not an Ascend chip"):
        AtcSpec(name)


@pytest.mark.parametrize("soc", ["310", "310P3", "310P3Vir01", "710", "910A", "910ProB", "910B"])
def test_single_precision_is_refused_on_chips_whose_convolutions_lack_it(soc: str) -> None:
    with pytest.raises(SetupError, match=f"convolutions of Ascend{soc} are f16 only"):
        AtcSpec(soc, precision="f32")
    AtcSpec(soc, precision="auto")


@pytest.mark.parametrize("soc", ["310B1", "910B4", "910_9391"])
def test_single_precision_is_kept_on_chips_whose_convolutions_have_it(soc: str) -> None:
    command = atc_command(AtcSpec(soc, precision="f32"), Path("M.onnx"), Path("M"))
    assert "--precision_mode=must_keep_origin_dtype" in command


@pytest.mark.parametrize(
    ("sizes", "dynamic", "problem"),
    [
        ((), False, "not positive"),
        ((0,), False, "not positive"),
        ((4, 2), True, "not positive and ascending"),
        ((2, 2), True, "not positive and ascending"),
        ((1, 2), False, "has one batch size"),
        ((4,), True, "has 2 to 100 sizes, not 1"),
        (tuple(range(1, 102)), True, "has 2 to 100 sizes, not 101"),
    ],
)
def test_batch_sizes_that_cannot_be_compiled_are_a_config_error(
    sizes: tuple[int, ...], problem: str, *, dynamic: bool
) -> None:
    with pytest.raises(ConfigError, match=problem):
        AtcSpec("310P3", sizes, dynamic)


SPEC = AtcSpec("310P3", (4,), height=HEIGHT, width=WIDTH)


def start_cann(monkeypatch: pytest.MonkeyPatch, cann: FakeCann) -> FakeCann:
    """Makes an installation that of this process, as if only its home folder were set."""
    for name in ("ASCEND_HOME_PATH", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(cann.home))
    monkeypatch.setenv("PATH", cann.path)
    return cann


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCann:
    return start_cann(monkeypatch, install_cann(tmp_path / "Ascend"))


@pytest.mark.usefixtures("compiler")
class TestRun:
    @pytest.mark.parametrize(
        ("spec", "kind"),
        [
            (SPEC, "static 4"),
            (replace(SPEC, batch_sizes=(1, 2, 4), dynamic_batch=True), "dynamic"),
            (replace(SPEC, aipp=True), "aipp"),
            (replace(SPEC, batch_sizes=(1, 4), dynamic_batch=True, aipp=True), "dynamic aipp"),
        ],
    )
    @pytest.mark.parametrize("backend", ["ascend", "ascend-ais"])
    def test_makes_a_model_that_the_backends_run(
        self, spec: AtcSpec, kind: str, backend: str
    ) -> None:
        content, _ = run_atc(spec, network())
        images = batch(5, kind)
        with stand_ins():
            device = open_backend(backend, content, BackendOptions(batch_size=5))
            assert_equal(device.infer(images), expected(images))
            device.close()

    def test_records_the_command(self) -> None:
        spec = replace(SPEC, batch_sizes=(1, 2), dynamic_batch=True, aipp=True)
        _, run = run_atc(spec, network())
        assert run.command == (
            "atc --framework=5 --model=model.onnx --output=model_bs1_2 --input_format=NCHW "
            "--input_shape=data:-1,3,32,48 --log=error --soc_version=Ascend310P3 "
            "--dynamic_batch_size=1,2 --insert_op_conf=aipp.cfg"
        )
        assert 0 < run.seconds < 60
        assert run.toolchain == "8.0.0"

    def test_the_same_model_gives_the_same_file(self) -> None:
        assert run_atc(SPEC, network())[0] == run_atc(SPEC, network())[0]

    @pytest.mark.parametrize(
        ("spec", "onnx", "problem"),
        [
            (replace(SPEC, input_name="x"), network(), r"E10016: Opname \[x\]"),
            (SPEC, b"no model", "E16005: The model .* cannot be parsed"),
        ],
    )
    def test_a_failure_shows_the_compilers_error_and_the_command(
        self, spec: AtcSpec, onnx: bytes, problem: str
    ) -> None:
        with pytest.raises(SetupError, match=f"atc failed with exit code 255: {problem}") as caught:
            run_atc(spec, onnx)
        assert "the command was atc --framework=5 --model=model.onnx" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "opset"), [("5.1.RC2", 9), ("5.1.RC2", 13), ("8.0.0", 11), ("8.0.0", 18)]
)
def test_every_opset_in_the_compilers_reference_is_compiled(
    version: str, opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_cann(monkeypatch, install_cann(tmp_path / "cann", version, python="9 1.21.6"))
    assert run_atc(SPEC, network(opset=opset))[1].toolchain == version


def test_an_unknown_opset_is_the_compilers_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_cann(monkeypatch, install_cann(tmp_path / "cann", "5.1.RC2", python="9 1.21.6"))
    with pytest.raises(SetupError, match=r"E16005: The model has \[17\] as its domain_version"):
        run_atc(SPEC, network(opset=17))


def test_float32_is_compiled_and_reported_as_such_on_chips_with_hf32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_cann(monkeypatch, install_cann(tmp_path / "cann"))
    content, run = run_atc(replace(SPEC, soc="910B4", precision="f32"), network())
    assert "--op_precision_mode=no_hf32.ini" in run.command
    with stand_ins():
        acl: Any = importlib.import_module("acl.fake")
        acl.soc = "Ascend910B4"
        backend = open_backend("ascend", content, BackendOptions("f32", batch_size=4))
        assert (backend.precision, backend.description) == ("f32", "Ascend910B4")
        backend.close()


def other(folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the fake by another compiler."""
    start_cann(monkeypatch, install_cann(folder / "other", compiler=lines))


@pytest.mark.parametrize("text", ["exit 0", "touch a.om b.om"])
def test_a_compiler_that_does_not_write_one_model_is_an_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other(tmp_path, text, monkeypatch)
    with pytest.raises(SetupError, match=r"reported success but wrote [02] .om files"):
        run_atc(SPEC, network())


def test_a_model_with_the_hosts_name_in_its_file_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other(tmp_path, "printf compiled > model_bs4_linux_aarch64.om", monkeypatch)
    assert run_atc(SPEC, network())[0] == b"compiled"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "for n in 0 1 2 3; do echo [ERROR] GE $n >&2; done; echo bye; exit 1",
            r"code 1: \[ERROR\] GE 1 \| \[ERROR\] GE 2 \| .*GE 3 \(",
        ),
        (r"printf 'a\nb\nc\nd\n\377\n'; exit 3", r"code 3: c \| d \| �"),
        ("exit 4", "code 4: it printed nothing"),
    ],
)
def test_the_last_errors_are_shown_or_otherwise_the_last_lines(
    lines: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other(tmp_path, lines, monkeypatch)
    with pytest.raises(SetupError, match=message):
        run_atc(SPEC, network())


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ("--model=other.onnx", "file is not existed"),
        ("--insert_op_conf=other.cfg", "is no file"),
        ("--input_shape=data:1,3,64,48", "AIPP's image"),
        ('--input_shape="data:1,3,32,48"', "quotes"),
        ("--input_shape=data:-1,3,32,48", "E10003"),
        ("--precision_mode=must_keep_origin_dtype", "EZ3002"),
        ("--fast=1", "is no parameter"),
        ("--op_precision_mode=other.ini", "is no file"),
    ],
)
def test_the_fake_refuses_what_the_compiler_refuses(
    changed: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(network())
    (tmp_path / "aipp.cfg").write_text(aipp_text(HEIGHT, WIDTH))
    spec = replace(SPEC, batch_sizes=(1,), aipp=True)
    command = atc_command(spec, Path("model.onnx"), Path("out"))
    name = changed.partition("=")[0]
    command = [part for part in command if not part.startswith(f"{name}=")]
    # The fake itself runs in this program's Python.
    answer = subprocess.run(
        [sys.executable, FOLDER / "atc", *command[1:], changed],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 255
    assert problem in answer.stdout
    assert not (tmp_path / "out.om").exists()
