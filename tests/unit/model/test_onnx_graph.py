"""Inputs and names of ONNX models are read, and other content is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import onnx
import pytest
from onnx import TensorProto, ValueInfoProto, helper

from distributed_pose import SetupError
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.model.onnx_graph import image_input, input_ports, parse, parse_checked, ports
from distributed_pose.model.onnx_precision import is_quantised, precision_of
from distributed_pose.records.models import ModelPort
from distributed_pose.run.models import load_model
from tests.tiny_models import save_constant_model, save_external_model


def model(*inputs: ValueInfoProto) -> bytes:
    return bytes(helper.make_model(helper.make_graph([], "g", inputs, [])).SerializeToString())


def port(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff\xff", model()[:-2] + b"\xff"])
@pytest.mark.parametrize("read", [parse, parse_checked, ports, input_ports])
def test_content_that_is_not_onnx_has_one_message(
    content: bytes, read: Callable[[bytes], object]
) -> None:
    with pytest.raises(
        SetupError, match=r"the model is not valid ONNX: .*check model.path"
    ) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_the_image_is_the_only_input_that_is_not_a_weight(tmp_path: Path) -> None:
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
def test_dynamic_dimensions_are_none_in_every_notation(
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
def test_types_have_the_names_of_numpy(kind: int, dtype: str) -> None:
    (found,) = input_ports(model(port("x", 1, dtype=kind)))
    assert found.dtype == dtype


def damaged(content: bytes, random: Random) -> bytes:
    """Returns content with changed, removed and added bytes."""
    given = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        at = random.randrange(len(given))
        if random.random() < 0.6:
            given[at] = random.randrange(256)
        elif random.random() < 0.5:
            del given[at : at + random.randrange(1, 9)]
        else:
            given[at:at] = random.randbytes(random.randrange(1, 9))
    return bytes(given)


def test_damaged_files_are_read_or_refused_in_one_printable_line(
    tmp_path: Path,
) -> None:
    path = save_external_model(tmp_path / "m.onnx", 0.5)
    content, random = path.read_bytes(), Random(0)
    readers: list[Callable[[bytes], object]] = [
        lambda _: load_model(path, "modelzoo"),
        ports,
        fold_normalisation,
        lambda given: is_quantised(parse(given)),
        lambda given: precision_of(parse(given), fuses=False),
        lambda given: precision_of(parse(given), fuses=True),
    ]
    refused = []
    for _ in range(300):
        path.write_bytes(given := damaged(content, random))
        for read in readers:
            try:
                read(given)
            except SetupError as error:
                refused.append(str(error))
    assert 300 < len(refused) < 6 * 300
    assert all(message.isprintable() for message in refused)


def test_a_name_that_is_not_text_is_refused() -> None:
    made = model(port("xyz", 1)).replace(b"xyz", b"x\xffz")
    with pytest.raises(SetupError, match="a name in it is not UTF-8"):
        parse(made)


def test_names_are_shown_in_one_printable_line() -> None:
    with pytest.raises(SetupError) as caught:
        image_input(parse(model(port("\x1b[2J\n" + "a" * 10**5, 1), port("b", 1))))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_sequence_input_has_neither_shape_nor_type() -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    assert input_ports(model(sequence)) == [ModelPort("x", (), "none")]
