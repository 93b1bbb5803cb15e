"""A run without data and model evaluates the demo, and reaches the AP of its card."""

import json
from pathlib import Path

import pytest

from distributed_pose import parse_config
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.evaluation import evaluate
from distributed_pose.files.local import sha256_hex
from distributed_pose.model.checkpoint import load_checkpoint
from tests.requirements import skip_without_bf16

CARD = json.loads(WEIGHTS.with_suffix(".json").read_text())
CARD_AP = CARD["held_out"]["AP"]

# Largest difference from the AP of the card, which PyTorch computed in float32; bf16 is compared
# with f32 on one backend.
F32_TOLERANCE = 0.005
BF16_TOLERANCE = 0.02


def demo_ap(**values: object) -> float:
    report = evaluate(parse_config({"engine": "inline", **values}))
    assert report.note.startswith("Demo: ")
    assert report.ap is not None
    return report.ap["AP"]


def test_a_part_of_the_demo_is_accurate() -> None:
    assert demo_ap(precision="f32", data={"limit": 16}) > CARD_AP - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_demo_reaches_the_ap_of_its_card(backend: str) -> None:
    found = demo_ap(backend=backend, precision="f32")
    assert found == pytest.approx(CARD_AP, abs=F32_TOLERANCE)


@pytest.mark.slow
def test_the_demo_is_as_accurate_at_another_scale() -> None:
    assert demo_ap(precision="f32", profile="upstream") > CARD_AP - 0.1


@pytest.mark.slow
def test_bf16_keeps_the_accuracy_of_the_demo() -> None:
    skip_without_bf16()
    assert demo_ap(precision="bf16") == pytest.approx(demo_ap(precision="f32"), abs=BF16_TOLERANCE)


def test_the_card_describes_the_shipped_weights() -> None:
    assert CARD["sha256"] == sha256_hex(WEIGHTS.read_bytes())


def test_the_shipped_weights_have_the_published_names_and_shapes(shared: Path) -> None:
    manifest = json.loads((shared / "reference/lightweight_openpose_state_dict.json").read_text())
    weights = load_checkpoint(WEIGHTS.read_bytes(), str(WEIGHTS)).weights
    found = {name: list(array.shape) for name, array in weights.items()}
    assert found == {name: shape for name, shape in manifest.items() if "num_batches" not in name}
