"""Real networks on real images reach the reference decoder's detections and AP.

All tolerances are in the tables below. The reference files were made with ONNX Runtime at float32.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed_pose.evaluation import evaluate
from tests.conftest import Dataset
from tests.requirements import skip_without_bf16

NETWORKS = ("human_pose_estimation_0001", "tf_pose_mobilenet_v2_small")
PROFILES = ("modelzoo", "upstream")

KEYPOINT_TOLERANCE_PX = 0.01
SCORE_TOLERANCE = 1e-2

# AP with profile `uint8` and ONNX Runtime at float32, whose maps equal, to the bit, those of the
# network on normalised bytes. With `modelzoo` AP is 0.4659 and 0.2259.
UINT8_AP = {"human_pose_estimation_0001": 0.4620, "tf_pose_mobilenet_v2_small": 0.2177}

# Largest difference of AP from the reference. In bf16 one person of the 46 changes AP by 0.02.
AP_TOLERANCE = {
    ("onnxruntime", "f32"): 0.0005,
    ("openvino", "f32"): 0.002,
    ("openvino", "bf16"): 0.02,
}

# The network whose batch normalisation computes statistics amplifies rounding: from the same
# float32 input its heatmaps differ by up to 0.016 between the runtimes.
UINT8_AP_TOLERANCE = {("tf_pose_mobilenet_v2_small", "openvino", "f32"): 0.004}


@pytest.mark.parametrize(
    ("network", "profile"),
    [
        pytest.param(network, profile, marks=[pytest.mark.slow] if large and odd else [])
        for network, large in ((name, name.startswith("human")) for name in NETWORKS)
        for profile, odd in ((name, name == "upstream") for name in PROFILES)
    ],
)
def test_onnxruntime_returns_the_reference_detections(
    coco_mini: Dataset, shared: Path, tmp_path: Path, network: str, profile: str
) -> None:
    found = run(coco_mini, shared, tmp_path, network, profile, "onnxruntime", "f32")
    check_detections(*found, read_reference(shared, network, profile))


def check_detections(
    ap: dict[str, float], found: list[dict[str, Any]], reference: dict[str, Any]
) -> None:
    expected = sorted(reference["detections"], key=lambda d: (d["image_id"], -d["score"]))
    assert [d["image_id"] for d in found] == [d["image_id"] for d in expected]
    np.testing.assert_allclose(
        [d["keypoints"] for d in found],
        [d["keypoints"] for d in expected],
        rtol=0,
        atol=KEYPOINT_TOLERANCE_PX,
    )
    np.testing.assert_allclose(
        [d["score"] for d in found], [d["score"] for d in expected], atol=SCORE_TOLERANCE
    )
    tolerance = AP_TOLERANCE["onnxruntime", "f32"]
    assert ap == pytest.approx(reference["stats"], abs=tolerance)


@pytest.mark.slow
def test_onnxruntime_returns_the_reference_detections_at_another_input_size(
    coco_mini: Dataset, shared: Path, tmp_path: Path
) -> None:
    found = run(coco_mini, shared, tmp_path, NETWORKS[0], "modelzoo", input="256x456")
    check_detections(*found, read_reference(shared, NETWORKS[0], "256x456"))


@pytest.mark.slow
def test_onnxruntime_returns_the_reference_detections_of_several_scales(
    coco_mini: Dataset, shared: Path, tmp_path: Path
) -> None:
    scales = (0.5, 1.0, 1.5, 2.0)
    network = NETWORKS[0]
    found = run(coco_mini, shared, tmp_path, network, "upstream", scales=scales, gather="poses")
    check_detections(*found, read_reference(shared, NETWORKS[0], "multiscale"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("network", NETWORKS)
def test_openvino_reaches_the_reference_ap(
    coco_mini: Dataset, shared: Path, tmp_path: Path, network: str, profile: str, precision: str
) -> None:
    if precision == "bf16":
        skip_without_bf16()
    ap, _ = run(coco_mini, shared, tmp_path, network, profile, "openvino", precision)
    expected = read_reference(shared, network, profile)["stats"]["AP"]
    assert ap["AP"] == pytest.approx(expected, abs=AP_TOLERANCE["openvino", precision])


@pytest.mark.parametrize(
    "network",
    [
        pytest.param("human_pose_estimation_0001", marks=pytest.mark.slow),
        "tf_pose_mobilenet_v2_small",
    ],
)
def test_onnxruntime_reaches_the_known_ap_on_bytes(
    coco_mini: Dataset, shared: Path, tmp_path: Path, network: str
) -> None:
    ap, _ = run(coco_mini, shared, tmp_path, network, "uint8", "onnxruntime", "f32")
    assert ap["AP"] == pytest.approx(UINT8_AP[network], abs=AP_TOLERANCE["onnxruntime", "f32"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_openvino_reaches_the_known_ap_on_bytes(
    coco_mini: Dataset, shared: Path, tmp_path: Path, network: str, precision: str
) -> None:
    if precision == "bf16":
        skip_without_bf16()
    ap, _ = run(coco_mini, shared, tmp_path, network, "uint8", "openvino", precision)
    usual = AP_TOLERANCE["openvino", precision]
    tolerance = UINT8_AP_TOLERANCE.get((network, "openvino", precision), usual)
    assert ap["AP"] == pytest.approx(UINT8_AP[network], abs=tolerance)


def run(
    dataset: Dataset,
    shared: Path,
    output: Path,
    network: str,
    profile: str,
    backend: str = "onnxruntime",
    precision: str = "f32",
    **settings: Any,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Returns AP and detections of a run; checks that its report names what was used."""
    config = dataset.config(
        model={"path": shared / "models" / f"{network}.onnx"},
        profile=profile,
        backend=backend,
        precision=precision,
        batch_size=4,
        **settings,
    )
    report = evaluate(config, output)
    named = (report.precision, report.backend.partition(":")[0], report.profile)
    assert named == (precision, backend, profile)
    assert report.input == settings.get("input", "368x368" if profile == "upstream" else "368x640")
    assert report.ap is not None
    return dict(report.ap), json.loads((output / "detections.json").read_text())


def read_reference(shared: Path, network: str, profile: str) -> dict[str, Any]:
    path = shared / "reference" / f"coco-mini.{network}.{profile}.json"
    reference: dict[str, Any] = json.loads(path.read_text())
    return reference
