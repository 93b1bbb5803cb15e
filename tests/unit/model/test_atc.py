"""The Ascend compiler: its exact commands, and what is made of its answers."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distributed_pose import ConfigError, SetupError
from distributed_pose.backends.base import BackendOptions
from distributed_pose.backends.registry import open_backend
from distributed_pose.model.atc import (
    AtcOrder,
    aipp_text,
    atc_command,
    run_atc,
    toolchain_version,
)
from distributed_pose.soc import precision_on, soc_version
from tests.fakes.ascend import FOLDER, HEIGHT, WIDTH, network, stand_ins
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
    ("order", "command"),
    [
        (
            AtcOrder("310"),
            f'{GUIDE}--input_shape="data:1,3,368,640" --log=error --soc_version=Ascend310',
        ),
        (
            AtcOrder("310P3", (64,)),
            f'{GUIDE}--input_shape="data:64,3,368,640" --log=error --soc_version=Ascend310P3',
        ),
        (
            AtcOrder("310P3", (1, 2, 4, 8), dynamic_batch=True),
            (
                f'{GUIDE}--input_shape="data:-1,3,368,640" --log=error --soc_version=Ascend310P3 '
                '--dynamic_batch_size="1,2,4,8"'
            ),
        ),
        (
            AtcOrder("Ascend310P3", (4,), aipp=True),
            (
                f'{GUIDE}--input_shape="data:4,3,368,640" --log=error --soc_version=Ascend310P3 '
                "--insert_op_conf=aipp.cfg"
            ),
        ),
        (
            AtcOrder("910B4", precision="f32", input_name="x", height=256, width=512),
            (
                f'{GUIDE}--input_shape="x:1,3,256,512" --log=error --soc_version=Ascend910B4 '
                "--precision_mode=must_keep_origin_dtype"
            ),
        ),
    ],
)
def test_the_commands_are_those_of_the_guide(order: AtcOrder, command: str) -> None:
    aipp = Path("aipp.cfg") if order.aipp else None
    assert atc_command(order, Path("M.onnx"), Path("M_bs1"), aipp) == shlex.split(command)


def test_the_command_of_a_run_can_be_given_to_a_shell() -> None:
    order = AtcOrder("310", input_name="the input")
    command = atc_command(order, Path("a model.onnx"), Path("M"), None)
    assert shlex.split(shlex.join(command)) == command
    assert "'--model=a model.onnx'" in shlex.join(command)


def test_aipp_takes_128_away_divides_by_256_and_leaves_the_channels_in_their_order() -> None:
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
        ("910_9391", "Ascend910_9391"),
    ],
)
def test_a_chip_can_be_named_with_or_without_its_makers_name(name: str, soc: str) -> None:
    assert soc_version(name) == AtcOrder(name).soc_version == soc


@pytest.mark.parametrize("name", ["", "T4", "Ascend", "310P3 --debug_dir=x", "Ascend 310"])
def test_what_is_no_chip_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="is no Ascend chip"):
        AtcOrder(name)


@pytest.mark.parametrize("soc", ["310", "310P3", "710", "910A", "910ProB", "910B"])
def test_single_precision_is_refused_where_convolutions_lack_it(soc: str) -> None:
    with pytest.raises(SetupError, match=f"convolutions of Ascend{soc} are f16 only"):
        AtcOrder(soc, precision="f32")
    assert precision_on(soc_version(soc), "auto") == "f16"


@pytest.mark.parametrize("soc", ["310B1", "910B4", "910_9391"])
def test_single_precision_is_kept_where_convolutions_have_it(soc: str) -> None:
    assert precision_on(AtcOrder(soc, precision="f32").soc_version, "f32") == "f32"


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
        AtcOrder("310P3", sizes, dynamic)


ORDER = AtcOrder("310P3", (4,), height=HEIGHT, width=WIDTH)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stand-in for `atc` on the path, with the Python of the tests, and a version of CANN."""
    paths = (str(FOLDER), str(Path(sys.executable).parent), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(paths))
    folder = tmp_path / "cann" / "x86_64-linux"
    folder.mkdir(parents=True)
    (folder / "ascend_toolkit_install.info").write_text("package_name=x\nversion=8.0.0\n")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(folder.parent))
    return folder.parent


@pytest.mark.usefixtures("compiler")
class TestRun:
    @pytest.mark.parametrize(
        ("order", "kind"),
        [
            (ORDER, "static 4"),
            (replace(ORDER, batch_sizes=(1, 2, 4), dynamic_batch=True), "dynamic"),
            (replace(ORDER, aipp=True), "aipp"),
            (replace(ORDER, batch_sizes=(1, 4), dynamic_batch=True, aipp=True), "dynamic aipp"),
        ],
    )
    @pytest.mark.parametrize("backend", ["ascend", "ascend-ais"])
    def test_makes_what_the_backends_run(self, order: AtcOrder, kind: str, backend: str) -> None:
        content, _ = run_atc(order, network())
        images = batch(5, kind)
        with stand_ins():
            device = open_backend(backend, content, BackendOptions(batch_size=5))
            assert_equal(device.infer(images), expected(images))
            device.close()

    def test_says_what_was_run(self) -> None:
        order = replace(ORDER, batch_sizes=(1, 2), dynamic_batch=True, aipp=True)
        _, run = run_atc(order, network())
        assert run.command == (
            "atc --framework=5 --model=model.onnx --output=model_bs1_2 --input_format=NCHW "
            "--input_shape=data:-1,3,32,48 --log=error --soc_version=Ascend310P3 "
            "--dynamic_batch_size=1,2 --insert_op_conf=aipp.cfg"
        )
        assert 0 < run.seconds < 60
        assert run.toolchain == "8.0.0"

    def test_the_same_model_is_the_same_file(self) -> None:
        assert run_atc(ORDER, network())[0] == run_atc(ORDER, network())[0]

    @pytest.mark.parametrize(
        ("order", "onnx", "problem"),
        [
            (replace(ORDER, soc="310Z9"), network(), r"E10001: Value \[Ascend310Z9\]"),
            (replace(ORDER, input_name="x"), network(), r"E10016: Opname \[x\]"),
            (ORDER, b"no model", "E16005: The model .* cannot be parsed"),
        ],
    )
    def test_a_failure_shows_the_compilers_error_and_the_command(
        self, order: AtcOrder, onnx: bytes, problem: str
    ) -> None:
        with pytest.raises(SetupError, match=f"atc failed with exit code 255: {problem}") as caught:
            run_atc(order, onnx)
        assert "the command was atc --framework=5 --model=model.onnx" in caught.value.hint


def script(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts another compiler on the path."""
    (folder / "atc").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "atc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_without_the_compiler_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match=r"atc.*No such file.*set_env\.sh.*--dry-run"):
        run_atc(ORDER, network())


@pytest.mark.parametrize("text", ["exit 0", "touch a.om b.om"])
def test_a_compiler_that_does_not_write_one_model_is_an_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, text, monkeypatch)
    with pytest.raises(SetupError, match=r"said that it succeeded and wrote [02] .om files"):
        run_atc(ORDER, network())


def test_a_model_that_is_named_after_the_host_too_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, "printf compiled > model_bs4_linux_aarch64.om", monkeypatch)
    assert run_atc(ORDER, network())[0] == b"compiled"


def test_the_last_errors_are_shown_or_else_the_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "\\n".join(["start", *(f"[ERROR] GE {n}" for n in range(5)), "bye"])
    script(tmp_path, f"printf '{lines}' >&2; exit 1", monkeypatch)
    with pytest.raises(SetupError, match=r"code 1: \[ERROR\] GE 2 \| \[ERROR\] GE 3 \| .*GE 4 \("):
        run_atc(ORDER, network())
    script(tmp_path, r"printf 'a\nb\nc\nd\n\377\n'; exit 3", monkeypatch)
    with pytest.raises(SetupError, match=r"code 3: c \| d \| �"):
        run_atc(ORDER, network())
    script(tmp_path, "exit 4", monkeypatch)
    with pytest.raises(SetupError, match="code 4: it printed nothing"):
        run_atc(ORDER, network())


class TestToolchainVersion:
    @pytest.mark.parametrize(
        ("file", "text", "version"),
        [
            ("aarch64-linux/ascend_toolkit_install.info", "path=/x\nversion=8.0.RC1\n", "8.0.RC1"),
            ("version.cfg", "# made\nruntime_running_version=[7.6.0.1.220:8.0.0]\n", "8.0.0"),
            ("version.cfg", "runtime_running_version=[5.1.RC2]\n", "5.1.RC2"),
            ("compiler/version.info", "Version=6.0.1\nversion_dir=6\n", "6.0.1"),
        ],
    )
    @pytest.mark.parametrize("variable", ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"])
    def test_is_read_where_cann_writes_it(
        self,
        file: str,
        text: str,
        version: str,
        variable: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
        assert toolchain_version() == ""
        monkeypatch.setenv(variable, str(tmp_path))
        assert toolchain_version() == version

    def test_of_the_product_goes_before_that_of_a_part(self, compiler: Path) -> None:
        (compiler / "version.info").write_text("Version=7.6.0.1.220\n")
        assert toolchain_version() == "8.0.0"

    def test_is_empty_where_nothing_tells(self, compiler: Path) -> None:
        (compiler / "x86_64-linux" / "ascend_toolkit_install.info").write_bytes(b"nothing \xff\n")
        assert toolchain_version() == ""


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
    ],
)
def test_the_stand_in_refuses_what_the_compiler_refuses(
    changed: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(network())
    (tmp_path / "aipp.cfg").write_text(aipp_text(HEIGHT, WIDTH))
    order = replace(ORDER, batch_sizes=(1,), aipp=True)
    command = atc_command(order, Path("model.onnx"), Path("out"), Path("aipp.cfg"))
    name = changed.partition("=")[0]
    command = [part for part in command if not part.startswith(f"{name}=")]
    answer = subprocess.run(
        [*command, changed], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 255
    assert problem in answer.stdout
    assert not (tmp_path / "out.om").exists()
