"""Models are quantised to int8 with few differences, and unsuitable models are refused."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openvino
import pytest

from distributed_pose import SetupError
from distributed_pose.backends.base import BackendOptions
from distributed_pose.backends.openvino import OpenVinoBackend
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.model.quantise import quantise, quantiser_version
from tests.int8_models import batch_of, needs_int8, needs_nncf, random_inputs, small_network

pytestmark = needs_nncf

# Relative to the root mean square of the maps. Another network differs by more than 1.
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def network() -> bytes:
    return quantise(small_network(), [random_inputs(4)])


def files(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def ir(content: bytes) -> openvino.Model:
    found = files(content)
    return openvino.Core().read_model(found["model.xml"], found["model.bin"])


def root_mean_square(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def assert_answers_alike(int8: bytes, exact: bytes, inputs_N3HW: np.ndarray) -> None:
    ours, theirs = (
        OpenVinoBackend(content, BackendOptions(precision)).infer(batch_of(inputs_N3HW))
        for content, precision in ((int8, "int8"), (exact, "f32"))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert 0 < root_mean_square(one - other) < TOLERANCE * root_mean_square(other)


@needs_int8
@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 96), (3, 64, 96), (2, 40, 48)])
def test_an_int8_model_answers_nearly_as_the_float_one_for_any_batch_and_size(
    network: bytes, count: int, height: int, width: int
) -> None:
    inputs = random_inputs(count, height, width, seed=count)
    assert_answers_alike(network, small_network(), inputs)


@needs_int8
def test_a_model_on_bytes_is_calibrated_with_bytes() -> None:
    images = (random_inputs(4) * 256 + 128).astype(np.uint8)
    folded = fold_normalisation(small_network())
    assert_answers_alike(quantise(folded, [images]), folded, images[:2])


def test_depthwise_layers_and_output_layers_stay_in_float(network: bytes) -> None:
    layers = [n for n in ir(network).get_ops() if "Convolution" in n.get_type_name()]
    rounded = {
        node.get_friendly_name().partition("/")[0]
        for node in layers
        if node.input_value(0).get_node().get_type_name() == "FakeQuantize"
    }
    assert len(layers) == 7
    assert rounded == {"first", "wide"}


def test_the_grouping_of_inputs_does_not_change_the_model(network: bytes) -> None:
    single = quantise(small_network(), (image[None] for image in random_inputs(4)))
    assert files(single)["model.bin"] == files(network)["model.bin"]


def test_every_input_counts(network: bytes) -> None:
    fewer = quantise(small_network(), [random_inputs(4)[:3]])
    assert files(fewer)["model.bin"] != files(network)["model.bin"]


def test_it_prints_nothing_and_sends_no_telemetry(tmp_path: Path) -> None:
    # Runs in a process without pytest, under which NNCF does not send telemetry.
    code = (
        "import sys, numpy\n"
        "from distributed_pose.model.quantise import quantise\n"
        "quantise(sys.stdin.buffer.read(), [numpy.ones((1, 3, 64, 96), numpy.float32)])\n"
        "import nncf.telemetry.wrapper as wrapper\n"
        "assert 'pytest' not in sys.modules\n"
        "assert not isinstance(wrapper.telemetry, wrapper.NNCFTelemetry)\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    # Outside of continuous integration, OpenVINO's telemetry keeps an id in the home folder.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    network = small_network()
    ran = subprocess.run(command, input=network, capture_output=True, env=environment, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert not (tmp_path / "intel").exists()


def test_it_does_not_change_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCF_CI", "mine")
    quantise(small_network(), [random_inputs(1)])
    assert os.environ["NNCF_CI"] == "mine"


def test_a_calibration_without_images_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match="int8 needs images for calibration"):
        quantise(small_network(), [])


def test_a_network_of_output_layers_alone_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match="no layer to quantise"):
        quantise(small_network(only_heads=True), [random_inputs(1)])


@pytest.mark.parametrize(
    ("content", "inputs_N3HW"),
    [
        (b"no model", random_inputs(1)),
        (small_network(), random_inputs(1)[:, :2]),
        (small_network(), random_inputs(1, 4, 4)),
    ],
)
def test_a_model_that_cannot_be_quantised_is_a_setup_error(
    content: bytes, inputs_N3HW: np.ndarray
) -> None:
    with pytest.raises(SetupError, match=r"NNCF cannot quantise the model: .+"):
        quantise(content, [inputs_N3HW])


def test_the_error_without_nncf_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(SetupError, match=r"pip install 'distributed-pose\[int8\]'"):
        quantise(small_network(), [random_inputs(1)])


def test_the_version_names_what_an_int8_model_depends_on() -> None:
    assert "nncf 3." in quantiser_version()
    assert f"openvino {openvino.__version__.partition('-')[0]}" in quantiser_version()
