"""Hostile ONNX files: damaged, contradictory, endless, or larger than they weigh."""

import json
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.cases import HOSTILE_NAMES, SIZE, Case, annotations, damaged, dataset_settings
from tests.image_files import encode, picture
from tests.tiny_models import save_constant_model


@cache
def _good() -> bytes:
    with TemporaryDirectory() as folder:
        return save_constant_model(Path(folder) / "m.onnx").read_bytes()


def _changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_model_from_string(_good())
    change(model)
    content: bytes = model.SerializeToString()
    return content


def _with_node(
    kind: str, outputs: Sequence[str], constants: dict[str, Any], **attributes: Any
) -> bytes:
    """Returns the valid model with an additional first node whose result is unused."""

    def change(model: onnx.ModelProto) -> None:
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        inputs = attributes.pop("inputs", [*constants])
        node = helper.make_node(kind, inputs, outputs, **attributes)
        model.graph.node.insert(0, node)
        _use(model, outputs[0])

    return _changed(change)


def _use(model: onnx.ModelProto, name: str) -> None:
    """Adds the mean of a value to the heatmaps, so that no runtime removes it."""
    nodes, old = model.graph.node, "heatmaps"
    for node in nodes:
        node.output[:] = ["heatmaps.plain" if output == old else output for output in node.output]
    nodes.append(helper.make_node("ReduceMean", [name], ["mean"], keepdims=0))
    nodes.append(helper.make_node("Add", ["heatmaps.plain", "mean"], [old]))


def _external(location: str, offset: str = "0", length: str = "1000") -> bytes:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=value)

    return _changed(change)


def _claimed_weights(dims: Sequence[int]) -> bytes:
    return _changed(lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), dims))


def _loop(count: int) -> bytes:
    """Returns a model that runs an empty loop a number of times."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Add", ["sum", "sum"], ["next"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("on", TensorProto.BOOL, []),
            value("sum", TensorProto.FLOAT, []),
        ],
        [value("still", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [])],
    )
    constants = {"count": np.int64(count), "go": np.bool_(True), "zero": np.float32(0)}
    return _with_node("Loop", ["looped"], constants, body=body)


def _doubling_functions(levels: int) -> bytes:
    """Returns a model with a function that calls another one twice, and so on."""

    def change(model: onnx.ModelProto) -> None:
        opset = [helper.make_opsetid("", 11), helper.make_opsetid("own", 1)]
        for level in range(levels):
            kind, domain = (f"F{level - 1}", "own") if level else ("Identity", "")
            inner = [
                helper.make_node(kind, ["a"], ["c"], domain=domain),
                helper.make_node(kind, ["c"], ["b"], domain=domain),
            ]
            made = helper.make_function("own", f"F{level}", ["a"], ["b"], inner, opset)
            model.functions.append(made)
        model.opset_import.append(helper.make_opsetid("own", 1))
        last = helper.make_node(f"F{levels - 1}", ["data"], ["called"], domain="own")
        model.graph.node.append(last)

    return _changed(change)


def _growing(kind: str, extent: Sequence[float], times: int = 1) -> bytes:
    """Returns a model with successive nodes that enlarge the image."""

    def change(model: onnx.ModelProto) -> None:
        value = np.array(extent, np.float32 if kind == "Resize" else np.int64)
        model.graph.initializer.append(numpy_helper.from_array(value, "extent"))
        places = ["roi", "extent"] if kind == "Resize" else ["extent"]
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "roi"))
        for n in range(times):
            start = f"grown{n}" if n else "data"
            model.graph.node.append(helper.make_node(kind, [start, *places], [f"grown{n + 1}"]))
        _use(model, f"grown{times}")

    return _changed(change)


def _kept_values(count: int) -> bytes:
    """Returns a model whose many large values are all needed at its end."""

    def change(model: onnx.ModelProto) -> None:
        scales = numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "extent")
        roi = numpy_helper.from_array(np.zeros(0, np.float32), "roi")
        model.graph.initializer.extend([scales, roi])
        names = [f"large{number}" for number in range(count)]
        for name in names:
            model.graph.node.append(helper.make_node("Resize", ["data", "roi", "extent"], [name]))
        model.graph.node.append(helper.make_node("Sum", names, ["sum"]))
        _use(model, "sum")

    return _changed(change)


def _sparse(size: int) -> bytes:
    """Returns a model with a weight of many values, of which the file has one."""

    def change(model: onnx.ModelProto) -> None:
        values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
        indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
        tensor = helper.make_sparse_tensor(values, indices, [size])
        model.graph.sparse_initializer.append(tensor)
        _use(model, "sparse")

    return _changed(change)


def _outer_product(size: int) -> bytes:
    """Returns a model with the product of a column and a row that depend on the input."""

    def change(model: onnx.ModelProto) -> None:
        ones = numpy_helper.from_array(np.ones(size, np.bool_), "ones")
        model.graph.initializer.append(ones)
        nodes = [
            helper.make_node("NonZero", ["ones"], ["places"]),
            helper.make_node("Cast", ["places"], ["row"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["row"], ["column"]),
            helper.make_node("MatMul", ["column", "row"], ["product"]),
        ]
        model.graph.node.extend(nodes)
        _use(model, "product")

    return _changed(change)


def _nested_ifs(depth: int) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [])
    zero = numpy_helper.from_array(np.array(0, np.float32))
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["x"], value=zero)], "g", [], [value]
    )
    for _ in range(depth):
        node = helper.make_node("If", ["go"], ["x"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [value])
        if graph.ByteSize() > 2**22:
            break
    return _with_node("If", ["x"], {"go": np.bool_(True)}, then_branch=graph, else_branch=graph)


def _chain(length: int) -> bytes:
    def change(model: onnx.ModelProto) -> None:
        for number in range(length):
            node = helper.make_node(
                "Identity", [f"v{number}" if number else "data"], [f"v{number + 1}"]
            )
            model.graph.node.append(node)

    return _changed(change)


def _rename(model: onnx.ModelProto, name: str) -> None:
    model.graph.input[0].name = name
    for node in model.graph.node:
        node.input[:] = [name if one == "data" else one for one in node.input]
        node.name = name


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["round"], ["round"]))
    model.graph.node[0].input[0] = "round"


def _calls_itself(model: onnx.ModelProto) -> None:
    node = helper.make_node("F", ["a"], ["b"], domain="own")
    opset = [helper.make_opsetid("", 11), helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [node], opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("F", ["data"], ["round"], domain="own"))


def _set_dims(model: onnx.ModelProto, dims: Sequence[int], port: int = -1) -> None:
    ports = [*model.graph.input, *model.graph.output] if port < 0 else [model.graph.output[port]]
    for one in ports:
        for dim, value in zip(one.type.tensor_type.shape.dim, dims, strict=True):
            dim.dim_value = value


_SHAPES = [1, 19, 46, 80]

_CONTENTS: dict[str, Callable[[Random], bytes]] = {
    "damaged": lambda r: damaged(_good(), r),
    "constant of a terabyte": lambda _: _with_node(
        "ConstantOfShape", ["big"], {"shape": np.array([2**19, 2**19])}
    ),
    "constant of 2 gigabytes": lambda _: _with_node(
        "ConstantOfShape", ["big"], {"shape": np.array([2**29])}
    ),
    "expansion to 2 gigabytes": lambda _: _with_node(
        "Expand", ["big"], {"one": np.ones(1, np.float32), "shape": np.array([2**29])}
    ),
    "range of half a billion": lambda _: _with_node(
        "Range", ["big"], {"a": np.float32(0), "b": np.float32(5e8), "c": np.float32(1)}
    ),
    "padding of gigabytes": lambda _: _with_node(
        "Pad", ["big"], {"one": np.ones(1, np.float32), "pads": np.array([2**29, 0])}
    ),
    "image a million times as large": lambda _: _growing("Resize", [1, 1, 1000, 1000]),
    "image doubled twenty times": lambda _: _growing("Tile", [1, 1, 2, 1], 20),
    "image near the limit": lambda _: _growing("Resize", [1, 1, 13, 13]),
    "values near the limit": lambda _: _kept_values(10),
    "large values that are kept": lambda _: _kept_values(40),
    "sparse weight of gigabytes": lambda _: _sparse(2**30),
    "product of a column and a row": lambda _: _outer_product(30_000),
    "functions that call twice": lambda _: _doubling_functions(60),
    "loop without end": lambda _: _loop(2**62),
    "ifs in ifs": lambda _: _nested_ifs(40),
    "chain of 50,000 nodes": lambda _: _chain(50_000),
    "cycle": lambda _: _changed(_cycle),
    "function that calls itself": lambda _: _changed(_calls_itself),
    "weights of 2 to the 41": lambda _: _claimed_weights([2**31, 2**10, 1, 1]),
    "weights below 0": lambda _: _claimed_weights([-19, 3, 8, 8]),
    "data outside": lambda r: _external(r.choice(("../secret", "/etc/passwd", "a/../../b"))),
    "data in a device": lambda _: _external("/dev/zero", length=str(2**40)),
    "data that is not there": lambda _: _external("weights.bin"),
    "data below 0": lambda _: _external("labels.json", "-5", "-7"),
    "data of no number": lambda _: _external("labels.json", "\x1b[31m", "many"),
    "data of a hostile name": lambda r: _external(r.choice(HOSTILE_NAMES)),
    "hostile name": lambda r: _changed(lambda m: _rename(m, r.choice(HOSTILE_NAMES))),
    "huge input": lambda _: _changed(lambda m: _set_dims(m, [2**40, 2**40, 2**40, 2**40])),
    "input below 0": lambda _: _changed(lambda m: _set_dims(m, [-1, -1, -1, -1])),
    "output of another shape": lambda _: _changed(lambda m: _set_dims(m, [1, 5, 1, 1], 0)),
    "no outputs": lambda _: _changed(lambda m: m.graph.ClearField("output")),
    "no inputs": lambda _: _changed(lambda m: m.graph.ClearField("input")),
    "no graph": lambda _: _changed(lambda m: m.ClearField("graph")),
    "a thousand outputs": lambda _: _changed(
        lambda m: m.graph.output.extend([m.graph.output[0]] * 1000)
    ),
    "unknown operator": lambda _: _changed(
        lambda m: setattr(m.graph.node[0], "op_type", "Nonsense")
    ),
    "unknown domain": lambda _: _changed(lambda m: setattr(m.graph.node[0], "domain", "a\x1b[31m")),
    "opset of the future": lambda _: _changed(lambda m: setattr(m.opset_import[0], "version", 999)),
    "no opset": lambda _: _changed(lambda m: m.ClearField("opset_import")),
    "ir of the future": lambda _: _changed(lambda m: setattr(m, "ir_version", 2**31)),
    "text of 50 MB": lambda _: _changed(lambda m: setattr(m, "doc_string", "x" * 50_000_000)),
    "length of 2 GB": lambda _: b"\x08\x07\x3a" + b"\xff\xff\xff\xff\x07" + _good(),
    "groups in groups": lambda _: b"\x0b" * 100_000,
    "other content": lambda r: r.choice(
        (b"", b"text", b"version https://git-lfs.github.com/spec/v1\n", r.randbytes(900))
    ),
    "integers": lambda _: _changed(
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64)
    ),
    "text as input": lambda _: _changed(
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)
    ),
    "values that are not numbers": lambda _: _changed(
        lambda m: setattr(m.graph.initializer[1], "raw_data", struct.pack("<f", float("nan")) * 19)
    ),
}


def _run_on(content: Callable[[Random], bytes]) -> Callable[[Path, Random], Sequence[str]]:
    def write(folder: Path, random: Random) -> Sequence[str]:
        (folder / "m.onnx").write_bytes(content(random))
        (folder.parent / "secret").write_bytes(bytes(20_000))
        (folder / "images").mkdir()
        (folder / "images" / "good.png").write_bytes(encode(".png", picture(*SIZE)))
        (folder / "labels.json").write_text(json.dumps(annotations({"good.png": SIZE})))
        if random.random() < 0.2:
            targets = ("ascend310", "tensorrt")
            return ["compile", "in/m.onnx", "--for", random.choice(targets), "--dry-run"]
        values = {"backend": "onnxruntime:cpu", "model.path": "in/m.onnx"}
        return dataset_settings("images", **values)

    return write


def model_cases(_random: Random) -> list[Case]:
    """Returns one case of each constructed kind, and many of random damage."""
    names = [*_CONTENTS, *["damaged"] * 40]
    return [Case("onnx", name, _run_on(_CONTENTS[name])) for name in names]
