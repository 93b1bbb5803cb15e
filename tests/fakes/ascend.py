"""What tests of the Ascend paths share: a network, its `.om`, and stand-ins to be imported."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent
HEIGHT, WIDTH = 32, 48

# `fake_om` has no state, and keeps sessions that take time to make.
_TOP_LEVEL = ("acl", "ais_bench")
_OURS = ("acl_calls", "ascend", "ascend_ais")

PLAIN = {"heatmaps": 19, "pafs": 38}
TWO_STAGES = {
    "stage_0_output_1_heatmaps": 19,
    "stage_0_output_0_pafs": 38,
    "stage_1_output_1_heatmaps": 19,
    "stage_1_output_0_pafs": 38,
}


@cache
def network(outputs: Sequence[str] = tuple(PLAIN), input_name: str = "data") -> bytes:
    """Returns ONNX of one strided layer an output with random weights, as many as the name says."""
    generator = np.random.default_rng(0)
    # Of all that there are, so that an output is the same beside whichever others.
    made = {
        name: generator.standard_normal((channels, 3, 8, 8)).astype(np.float32) / 14
        for name, channels in {**PLAIN, **TWO_STAGES}.items()
    }
    weights = [numpy_helper.from_array(made[name], f"{name}.weight") for name in outputs]
    nodes = [
        helper.make_node("Conv", [input_name, f"{name}.weight"], [name], strides=[8, 8])
        for name in outputs
    ]
    sizes = {input_name: 3} | {name: len(made[name]) for name in outputs}
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in sizes.items()
    ]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    return bytes(model.SerializeToString())


def om(onnx: bytes, batches: tuple[int, ...] = (1,), **fields: Any) -> bytes:
    """Returns an `.om` of the fakes.

    Args:
        onnx: the model.
        batches: one for a static batch, several for a dynamic one.
        fields: of `fake_om.Om`; `aipp=True` is that of the package.
    """
    module = importlib.import_module("fake_om")
    aipp = module.Aipp(128.0, 0.00390625) if fields.pop("aipp", False) else None
    settings = {
        "soc": "Ascend310P3",
        "input_name": "data",
        "image": (3, HEIGHT, WIDTH),
        "output_dtype": "float32",
        **fields,
    }
    content: bytes = module.Om(**settings, batches=batches, aipp=aipp, onnx=onnx).save()
    return content


@contextmanager
def stand_ins() -> Iterator[None]:
    """Makes `acl` and `ais_bench` importable, fresh, and forgets them and who used them after."""
    _forget()
    sys.path.insert(0, str(FOLDER))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        importlib.invalidate_caches()
        _forget()


def _forget() -> None:
    ours = {f"distributed_pose.backends.{name}" for name in _OURS}
    for name in list(sys.modules):
        if name.partition(".")[0] in _TOP_LEVEL or name in ours:
            del sys.modules[name]
