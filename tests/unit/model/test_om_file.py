"""An `.om` is read for the options of its compilation, even if it is damaged or has none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose.model.om_file import (
    compile_options,
    compiled_input,
    compiled_precision,
    compiled_soc,
)
from tests.fakes.ascend import network, om, stand_ins

SINGLE = ["float32", "float32"]
HALF = ["float16", "float16"]
KEPT = "--precision_mode=must_keep_origin_dtype"


def content(**fields: Any) -> bytes:
    with stand_ins():
        return om(network(), **fields)


CONTENT = content()


def test_the_compilers_options_are_read_in_either_spelling() -> None:
    command = "/opt/atc.bin --model=M.onnx --framework 5 --soc_version=Ascend910_9392 --log error"
    assert compile_options(content(command=command)) == {
        "model": "M.onnx",
        "framework": "5",
        "soc_version": "Ascend910_9392",
        "log": "error",
    }
    assert compiled_soc(content(command=command)) == "Ascend910_9392"


@pytest.mark.parametrize(
    ("soc", "options", "dtypes", "precision"),
    [
        ("Ascend310P3", "", SINGLE, "f16"),
        ("Ascend910B4", "", SINGLE, "f16"),
        ("Ascend310P3", "--precision_mode=force_fp16", SINGLE, "f16"),
        ("Ascend310P3", "--precision_mode=allow_fp32_to_fp16", SINGLE, "f16"),
        ("Ascend910B4", "--precision_mode=allow_fp32_to_fp16", SINGLE, "unknown"),
        ("Ascend910B4", "--precision_mode=allow_mix_precision", SINGLE, "unknown"),
        ("Ascend910B4", "--precision_mode_v2=fp16", SINGLE, "f16"),
        ("Ascend310B1", KEPT, SINGLE, "f32"),
        ("Ascend310B1", "--precision_mode_v2=origin", SINGLE, "f32"),
        ("Ascend310B1", KEPT, HALF, "f16"),
        ("Ascend310B1", KEPT, ["float32", "float16"], "unknown"),
        ("Ascend310B1", KEPT, ["int8", "int8"], "unknown"),
        ("Ascend310P3", KEPT, SINGLE, "unknown"),
        ("Ascend910B4-1", KEPT, SINGLE, "hf32"),
        ("Ascend910_9392", "--precision_mode=force_fp32", SINGLE, "hf32"),
        ("Ascend910B4", f"{KEPT} --op_precision_mode=/tmp/no_hf32.ini", SINGLE, "f32"),
        ("Ascend910B4", f"{KEPT} --op_precision_mode=mine.ini", SINGLE, "unknown"),
        ("Ascend310P3", "--compression_optimize_conf=c.cfg", SINGLE, "unknown"),
    ],
)
def test_the_precision_is_that_of_the_command_on_its_chip(
    soc: str, options: str, dtypes: list[str], precision: str
) -> None:
    assert compiled_precision(content(options=options, soc=soc), dtypes) == precision


def test_a_model_with_the_vendors_quantised_operators_is_int8() -> None:
    assert compiled_precision(CONTENT + b"\x12\x0bAscendQuant", SINGLE) == "int8"
    named = content(options="--model=/data/AscendQuant.onnx")
    assert compiled_precision(named, SINGLE) == "f16"


@pytest.mark.parametrize("command", ["", "atc --model=M.onnx"])
def test_facts_that_the_file_does_not_state_are_unknown(command: str) -> None:
    stated = content(command=command)
    assert compiled_soc(stated) == ""
    assert compiled_precision(stated, SINGLE) == ("f16" if command else "unknown")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("data:1,3,256,456", (256, 456)),
        ("data:-1,3,368,640", (368, 640)),
        ("data:1,3,-1,640", None),
        ("data:1,3,250,456", None),
        ("data:1,3,256", None),
    ],
)
def test_the_size_of_the_inputs_is_that_of_the_command(
    shape: str, size: tuple[int, int] | None
) -> None:
    assert compiled_input(content(command=f"atc --input_shape={shape}")) == size


@given(cut=st.integers(0, 400), junk=st.binary(max_size=40))
def test_a_file_that_is_truncated_or_followed_by_any_bytes_is_read_without_error(
    cut: int, junk: bytes
) -> None:
    for broken in (CONTENT[:cut], CONTENT[:cut] + junk, b"\x0a\x0batc_cmdline\x12" + junk):
        options = compile_options(broken)
        assert all(isinstance(value, str) for value in options.values())
        assert isinstance(compiled_precision(broken, SINGLE), str)
        assert isinstance(compiled_soc(broken), str)
        compiled_input(broken)
