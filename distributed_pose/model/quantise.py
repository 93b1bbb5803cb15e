"""Makes int8 models for OpenVINO, by post-training quantisation with NNCF.

Array legend: N images, 3 the channels blue, green, red, H and W size of the network input.
"""

import contextlib
import importlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distributed_pose.errors import SetupError, last_line
from distributed_pose.packages import require, without_telemetry

if TYPE_CHECKING:
    import openvino

# This number is part of the version. It is raised when the same model and images give another int8
# model.
_RECIPE = 1

# NNCF does not report its use to its makers if this environment variable is set.
_NO_TELEMETRY = "NNCF_CI"

# OpenVINO's name of the type of depthwise convolutions.
_DEPTHWISE = "GroupConvolution"


def quantise(content: bytes, calibration: Iterable[npt.NDArray[np.float32 | np.uint8]]) -> bytes:
    """Returns the int8 form of a model: a ZIP of OpenVINO's `model.xml` and `model.bin`.

    Dynamic dimensions stay dynamic. Two kinds of layers stay in float: the convolutions that make
    the outputs, since quantising them halved the AP of one network of the family, and depthwise
    convolutions, which the runtime computes in float even if they are quantised.

    Args:
        content: serialised ONNX with one image input, float32 or uint8.
        calibration: network inputs, [N, 3, H, W] each, in the type that the model takes. All are
            used, one image at a time, and kept in memory together.

    Raises:
        SetupError: if NNCF or OpenVINO is not installed, there are no inputs, or NNCF cannot
            quantise the model or any of its layers.
    """
    _require_packages()
    images = [image_3HW[None] for batch_N3HW in calibration for image_3HW in batch_N3HW]
    if not images:
        raise SetupError(
            "int8 needs images for calibration, and the run has none", "check data.images"
        )
    with _quietly():
        # NNCF is imported by name, because it has no types and takes seconds to import.
        nncf = importlib.import_module("nncf")
        try:
            model = _quantised(nncf, content, images)
        # NNCF's and OpenVINO's exceptions have no common base class.
        except Exception as error:  # noqa: BLE001
            raise SetupError(f"NNCF cannot quantise the model: {last_line(error)}") from None
    if not any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops()):
        raise SetupError(
            "the model has no layer to quantise: its convolutions make outputs or are depthwise",
            "set another precision",
        )
    return _pack(model)


def quantiser_version() -> str:
    """Returns the versions on which an int8 model depends, for cache keys.

    These are the versions of NNCF, OpenVINO and the recipe in this module.

    Raises:
        SetupError: if NNCF or OpenVINO is not installed.
    """
    _require_packages()
    return f"nncf {version('nncf')} openvino {version('openvino')} recipe {_RECIPE}"


def _require_packages() -> None:
    for module in ("nncf", "openvino"):
        require(module, extra="int8", purpose="precision int8")


def _quantised(
    nncf: ModuleType, content: bytes, images: Sequence[npt.NDArray[Any]]
) -> "openvino.Model":
    import openvino

    model = openvino.Core().read_model(content)
    ignored = nncf.IgnoredScope(names=_heads(model), types=[_DEPTHWISE], validate=False)
    return nncf.quantize(
        model,
        nncf.Dataset(images),
        subset_size=len(images),
        # Weights are quantised symmetrically and activations are not, because these networks have
        # ELUs, whose values start at -1.
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=ignored,
    )


def _heads(model: "openvino.Model") -> list[str]:
    """Returns the names of the last convolutions before the outputs, on every path to them."""
    waiting = [output.get_node() for output in model.outputs]
    seen: set[str] = set()
    heads = []
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() == "Convolution":
            heads.append(name)
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return sorted(heads)


def _pack(model: "openvino.Model") -> bytes:
    import openvino

    content = io.BytesIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        paths = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.serialize(model, *paths)
        for path in paths:
            # The date is fixed, so that the same model always gives the same bytes.
            member = zipfile.ZipInfo(path.name)
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps NNCF's log and progress bars off the standard output, and turns telemetry off."""
    before = os.environ.get(_NO_TELEMETRY)
    os.environ[_NO_TELEMETRY] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()), without_telemetry():
            yield
    finally:
        if before is None:
            del os.environ[_NO_TELEMETRY]
        else:
            os.environ[_NO_TELEMETRY] = before
