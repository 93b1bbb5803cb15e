"""Weights beside an ONNX file are read from the model's folder, or refused by name."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from distributed_pose import SetupError
from distributed_pose.backends.registry import compile_spec
from distributed_pose.files.local import sha256_hex
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.compile import cache_name
from distributed_pose.model.onnx_graph import messages
from tests.tiny_models import save_constant_model, save_external_model

DATA = "model.onnx.data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_external_model(tmp_path / "beside" / "model.onnx", 0.25)


def change(path: Path, **entries: str) -> None:
    """Overwrites entries of the first external tensor."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    entries_by_key = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in entries_by_key.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def first_output(content: bytes) -> float:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"data": np.zeros((1, 3, 8, 8), np.float32)})[0].ravel()[0])


def test_weights_are_found_beside_the_model_from_any_working_directory(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = save_external_model(tmp_path / "decoy" / "model.onnx", 0.5)
    contents = set()
    for folder, named in ((tmp_path, path), (decoy.parent, path), (path.parent, path.name)):
        monkeypatch.chdir(folder)
        contents.add(load_source(Path(named)).content)
    (content,) = contents
    monkeypatch.chdir(decoy.parent)
    assert first_output(content) == 0.25


def test_a_model_that_contains_its_weights_is_returned_unchanged(tmp_path: Path) -> None:
    path = save_constant_model(tmp_path / "model.onnx")
    source = load_source(path)
    assert (source.content, source.sha256) == (path.read_bytes(), sha256_hex(path.read_bytes()))


def test_the_digest_depends_on_graph_and_weights(path: Path, tmp_path: Path) -> None:
    before = load_source(path)
    moved = tmp_path / "moved"
    path.parent.rename(moved)
    path = moved / path.name
    assert load_source(path).sha256 == before.sha256 != sha256_hex(path.read_bytes())
    graph = path.read_bytes()
    save_external_model(path, 0.5)
    after = load_source(path)
    assert path.read_bytes() == graph
    assert (after.sha256, after.content) != (before.sha256, before.content)
    order = compile_spec("onnxruntime:cuda", "f16", "modelzoo")
    assert cache_name(after, order) != cache_name(before, order)


def everywhere(value: float) -> ModelProto:
    """Returns a model with tensors in all parts of a model that can have one."""

    def tensor(name: str) -> TensorProto:
        return numpy_helper.from_array(np.full(3, value, np.float32), name)

    branch = helper.make_graph([], "branch", [], [], [tensor("in a branch")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("constant")),
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Any", [], ["a"], domain="x", many=[tensor("one"), tensor("two")]),
    ]
    sparse = helper.make_sparse_tensor(
        tensor("sparse"), numpy_helper.from_array(np.arange(3), "indices"), [9]
    )
    graph = helper.make_graph(nodes, "g", [], [], [tensor("weight")], sparse_initializer=[sparse])
    inside = helper.make_node("Constant", [], ["f"], value=tensor("in a function"))
    function = helper.make_function("x", "F", [], ["f"], [inside], [helper.make_opsetid("", 18)])
    return helper.make_model(graph, functions=[function])


def test_tensors_in_any_part_of_the_graph_are_read(tmp_path: Path) -> None:
    model = everywhere(0.5)
    expected = model.SerializeToString()
    data = bytearray()
    for tensor in messages(model, TensorProto):
        for key, value in (("location", "w"), ("offset", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = TensorProto.EXTERNAL
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    assert len(list(messages(model, TensorProto))) == 9
    (tmp_path / "w").write_bytes(data)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert onnx.load_model_from_string(load_source(path).content) == onnx.load_model_from_string(
        expected
    )


@pytest.mark.parametrize("kind", ["INT4", "FLOAT16", "BFLOAT16", "INT64", "FLOAT8E4M3FN", "BOOL"])
def test_values_of_any_width_are_read(tmp_path: Path, kind: str) -> None:
    widths = {"INT4": 2, "FLOAT16": 6, "BFLOAT16": 6, "INT64": 24, "FLOAT8E4M3FN": 3, "BOOL": 3}
    tensor = TensorProto(name="w", dims=[3], data_type=TensorProto.DataType.Value(kind))
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w")
    tensor.external_data.add(key="offset", value="1")
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w").write_bytes(bytes(range(40)))
    found = onnx.load_model_from_string(load_source(tmp_path / "m.onnx").content)
    assert found.graph.initializer[0].raw_data == bytes(range(1, 1 + widths[kind]))


def test_links_are_followed_within_the_folders_of_the_model(path: Path, tmp_path: Path) -> None:
    # Download caches have links by name to files by content.
    (tmp_path / "snapshot").mkdir()
    expected = load_source(path)
    for name in (path.name, DATA):
        (tmp_path / "snapshot" / name).symlink_to(path.parent / name)
    found = load_source(tmp_path / "snapshot" / path.name)
    assert (found.content, found.sha256) == (expected.content, expected.sha256)


def absolute(path: Path) -> None:
    change(path, location=str(path.with_name(DATA)))


def upwards(path: Path) -> None:
    path.with_name(DATA).rename(path.parents[1] / "w")
    change(path, location="../w")


def upwards_and_back(path: Path) -> None:
    change(path, location=f"../{path.parent.name}/{DATA}")


def by_a_link(path: Path) -> None:
    path.with_name(DATA).rename(path.parents[1] / "w")
    path.with_name(DATA).symlink_to(path.parents[1] / "w")


def by_a_linked_folder(path: Path) -> None:
    path.with_name(DATA).rename(path.parents[1] / "w")
    (path.parent / "sub").symlink_to(path.parents[1])
    change(path, location="sub/w")


def in_a_circle(path: Path) -> None:
    path.with_name(DATA).unlink()
    path.with_name(DATA).symlink_to(path.with_name(DATA))


def nowhere(path: Path) -> None:
    change(path, location="")


def with_a_null(path: Path) -> None:
    change(path, location="a\0b")


@pytest.mark.parametrize(
    "place",
    [
        absolute,
        upwards,
        upwards_and_back,
        by_a_link,
        by_a_linked_folder,
        in_a_circle,
        nowhere,
        with_a_null,
    ],
)
def test_a_location_outside_the_models_folder_is_refused(
    path: Path, place: Callable[[Path], None]
) -> None:
    place(path)
    # A loop of links has no path up to Python 3.12; from 3.13 on it has one that cannot be read.
    why = "not a file in the model's folder" + "|levels of symbolic links" * (place is in_a_circle)
    expected = rf"model.onnx: tensor 'heatmaps\.weight' lies in .*({why})"
    with pytest.raises(SetupError, match=expected):
        load_source(path)


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, f"{DATA}, which cannot be read: No such file"),
        (shorten, rf"is bytes \d+ to \d+ of .*{DATA}, which has \d+"),
        (make_pipe, f"{DATA}, which is not a regular file"),
        (make_folder, f"{DATA}, which is not a regular file"),
        (make_device, "not a file in the model's folder"),
    ],
)
def test_a_file_that_does_not_hold_the_weights_is_named(
    path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(path.with_name(DATA))
    with pytest.raises(SetupError, match=message) as caught:
        load_source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-1"}, "offset '-1', which is not a number"),
        ({"offset": "9" * 40}, "offset '9+', which is not a number"),
        ({"offset": "٣"}, "which is not a number"),
        ({"offset": str(10**15)}, r"is bytes 10+ to \d+ of"),
        ({"length": "1"}, r"has '1' bytes .*, and its shape and type take 14592"),
        ({"length": "all"}, "length 'all', which is not a number"),
    ],
)
def test_offsets_and_lengths_out_of_range_are_refused(
    path: Path, entries: dict[str, str], message: str
) -> None:
    change(path, **entries)
    with pytest.raises(SetupError, match=message):
        load_source(path)


@pytest.mark.parametrize(("kind", "dims"), [("STRING", [3]), ("UNDEFINED", [3]), ("FLOAT", [-3])])
def test_tensors_without_a_size_in_bytes_are_refused(
    tmp_path: Path, kind: str, dims: list[int]
) -> None:
    tensor = TensorProto(name="w", dims=dims, data_type=TensorProto.DataType.Value(kind))
    tensor.data_location = TensorProto.EXTERNAL
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SetupError, match=f"is {kind} .* which external data cannot be"):
        load_source(tmp_path / "m.onnx")


def test_weights_over_the_limit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    tensors = [TensorProto(name=f"w{n}", dims=[2**28], data_type=1) for n in range(2)]
    for tensor in tensors:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w")
    model = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w").touch()
    os.truncate(tmp_path / "w", 2**30)
    tracemalloc.start()
    with pytest.raises(SetupError, match=r"has 21474837\d\d bytes with its external data"):
        load_source(tmp_path / "m.onnx")
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_names_from_the_model_are_shown_short_and_printable(path: Path) -> None:
    change(path, location="\x1b[31m" + "a" * 10**5)
    with pytest.raises(SetupError) as caught:
        load_source(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
