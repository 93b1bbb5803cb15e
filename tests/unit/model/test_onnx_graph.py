from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, ValueInfoProto, helper

from distributed_pose import SetupError
from distributed_pose.model.onnx_graph import image_input, input_ports, parse, parse_checked, ports
from distributed_pose.records import ModelPort
from tests.tiny_models import save_constant_model


def model(*inputs: ValueInfoProto) -> bytes:
    return bytes(helper.make_model(helper.make_graph([], "g", inputs, [])).SerializeToString())


def port(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff\xff", model()[:-2] + b"\xff"])
@pytest.mark.parametrize("read", [parse, parse_checked, ports, input_ports])
def test_what_is_no_onnx_has_one_message(content: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(SetupError, match=r"the model is no valid ONNX: .*see model.path") as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_the_image_is_the_only_input_that_is_no_weight(tmp_path: Path) -> None:
    made = onnx.load(save_constant_model(tmp_path / "m.onnx"))
    made.ir_version = 3
    made.graph.input.extend(port(t.name, *t.dims) for t in made.graph.initializer)
    assert image_input(made).name == "data"
    with pytest.raises(SetupError, match=r"2 inputs, not one image: a \[1\], b \['n', 2\]"):
        image_input(parse(model(port("a", 1), port("b", "n", 2))))


@pytest.mark.parametrize(
    ("given", "shape"),
    [(("n", 3, "", -1), (None, 3, None, None)), ((0, 3, 8, 8), (0, 3, 8, 8)), ((), ())],
)
def test_open_dimensions_are_none_however_they_are_written(
    given: tuple[int | str, ...], shape: tuple[int | None, ...]
) -> None:
    assert input_ports(model(port("x", *given))) == [ModelPort("x", shape)]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.UNDEFINED, "none"),
        (99, "of unknown type 99"),
    ],
)
def test_types_have_numpys_names(kind: int, dtype: str) -> None:
    (found,) = input_ports(model(port("x", 1, dtype=kind)))
    assert found.dtype == dtype


def test_a_sequence_has_no_type_of_a_tensor() -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    assert input_ports(model(sequence)) == [ModelPort("x", (), "none")]
