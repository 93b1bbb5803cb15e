"""Backends on CPUs report the precision in which they compute models of other converters."""

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from distributed_pose import RunConfig, SetupError
from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    check_precision,
    checked_backend,
)
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.backends.registry import compile_spec, open_backend
from distributed_pose.compilation import compile_for
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.compile import compile_model
from distributed_pose.model.makers import Calibration
from distributed_pose.model.onnx_graph import parse
from distributed_pose.model.onnx_precision import is_quantised, precision_of
from tests.int8_models import batch_of, needs_int8, random_inputs, small_network

ORT, OPENVINO = "onnxruntime:cpu", "openvino"


class Reader(CalibrationDataReader):
    """Three random inputs."""

    def __init__(self) -> None:
        self._inputs = iter([{"data": random_inputs(1, seed=seed)} for seed in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in the forms that ONNX Runtime's tools convert it to."""
    made = tmp_path_factory.mktemp("converted")
    exact = made / "exact.onnx"
    exact.write_bytes(small_network())
    quantize_static(exact, made / "qdq.onnx", Reader(), quant_format=QuantFormat.QDQ)
    quantize_static(exact, made / "operators.onnx", Reader(), quant_format=QuantFormat.QOperator)
    quantize_static(
        exact,
        made / "part.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        nodes_to_exclude=["first"],
    )
    quantize_dynamic(exact, made / "dynamic.onnx")
    half = convert_float_to_float16(onnx.load(exact), keep_io_types=False)
    onnx.save(half, made / "half.onnx")
    return made


def opened(folder: Path, name: str, backend: str, precision: str = "auto") -> Backend:
    content = (folder / f"{name}.onnx").read_bytes()
    return open_backend(backend, content, BackendOptions(precision))


def runs_half() -> bool:
    """Returns whether ONNX Runtime has half-precision kernels for this processor."""
    return platform.machine() in {"aarch64", "arm64"}


def test_onnx_runtime_reports_the_precision_of_its_optimised_graph(folder: Path) -> None:
    names = ("exact", "qdq", "operators", "part", "dynamic")
    found = {name: opened(folder, name, ORT).precision for name in names}
    assert found == {
        "exact": "f32",
        "qdq": "int8",
        "operators": "int8",
        "part": "mixed",
        "dynamic": "int8",
    }


def test_half_precision_on_a_processor_without_it_is_float32(folder: Path) -> None:
    found = opened(folder, "half", ORT).precision
    assert found == "f32" or (found == "f16" and runs_half())
    assert precision_of(parse((folder / "half.onnx").read_bytes()), fuses=True) == "f16"


def test_a_runtime_that_fuses_dequantisation_computes_those_layers_in_int8(folder: Path) -> None:
    # TensorRT fuses them in this way.
    assert precision_of(parse((folder / "qdq.onnx").read_bytes()), fuses=True) == "int8"
    assert precision_of(parse((folder / "part.onnx").read_bytes()), fuses=True) == "mixed"


@needs_int8
def test_openvino_reports_the_precision_of_its_kernels(folder: Path) -> None:
    assert opened(folder, "qdq", OPENVINO).precision == "int8"
    assert opened(folder, "part", OPENVINO).precision == "mixed"
    # OpenVINO does not support dynamic quantisation of convolutions.
    assert opened(folder, "dynamic", OPENVINO).precision == "f32"
    assert opened(folder, "half", OPENVINO, "f32").precision == "f32"


@pytest.mark.parametrize(
    ("name", "backend", "asked", "found"),
    [
        ("operators", ORT, "f32", "int8"),
        ("part", ORT, "int8", "mixed"),
        ("exact", ORT, "int8", "f32"),
        pytest.param("qdq", OPENVINO, "f32", "int8", marks=needs_int8),
        pytest.param("part", OPENVINO, "int8", "mixed", marks=needs_int8),
    ],
)
def test_a_precision_other_than_the_models_is_refused_with_the_models_precision(
    folder: Path, name: str, backend: str, asked: str, found: str
) -> None:
    with pytest.raises(SetupError, match=f"precision {found}, not {asked} .*precision=auto"):
        opened(folder, name, backend, asked)


def test_the_hint_names_only_precisions_that_can_be_requested() -> None:
    for found in ("mixed", "unknown", "f64"):
        with pytest.raises(SetupError, match=r"\(set precision=auto\)"):
            check_precision("f32", found)


class Closing(OracleBackend):
    """A backend that remembers whether it was closed."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_a_backend_of_another_precision_than_requested_is_closed() -> None:
    backend = Closing("f32")
    with pytest.raises(SetupError, match="precision f32, not f16"):
        checked_backend(backend, "f16")
    assert backend.is_closed


@pytest.mark.parametrize(
    ("asked", "found"), [("f32", "f32"), ("auto", "mixed"), ("f16", "unknown")]
)
def test_a_backend_of_the_requested_or_an_unknown_precision_is_used(asked: str, found: str) -> None:
    backend = Closing(found)
    assert checked_backend(backend, asked) is backend
    assert not backend.is_closed


@pytest.mark.parametrize("backend", [ORT, OPENVINO])
def test_half_precision_answers_nearly_as_float32(folder: Path, backend: str) -> None:
    batch = batch_of(random_inputs(2))
    exact, half = (
        opened(folder, name, backend, precision).infer(batch)
        for name, precision in (("exact", "f32"), ("half", "auto"))
    )
    for one, other in zip(exact, half, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05)


def test_int8_is_not_compiled_from_a_quantised_model(folder: Path) -> None:
    order = compile_spec("openvino", "int8", "modelzoo")
    with pytest.raises(SetupError, match=r"qdq.onnx is quantised already .*precision=auto"):
        compile_for(load_source(folder / "qdq.onnx"), [order], RunConfig(), None)


@pytest.mark.parametrize("name", ["qdq", "operators", "dynamic"])
@pytest.mark.parametrize(
    ("backend", "precision"), [(OPENVINO, "int8"), ("onnxruntime:cuda", "f16")]
)
def test_a_quantised_model_is_not_converted_again(
    folder: Path,
    name: str,
    backend: str,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = load_source(folder / f"{name}.onnx")
    assert is_quantised(parse(source.content))
    ranges = Calibration(lambda: iter(()), "no images", 0)
    order = compile_spec(backend, precision, "modelzoo")
    assert compile_model(source, order, ranges).content == source.content
