"""The main job with nothing named: its own images, its own network, real AP."""

import json
from pathlib import Path

import pytest
import torch

from distributed_pose import parse_config
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.evaluation import evaluate
from distributed_pose.files import sha256_hex
from tests.requirements import skip_without_bf16

MIN_AP = 0.80
BF16_TOLERANCE = 0.02


def demo_ap(**values: object) -> float:
    report = evaluate(parse_config({"engine": "inline", **values}))
    assert "This is the demo" in report.note
    assert report.ap is not None
    return report.ap["AP"]


def test_a_part_of_the_demo_is_accurate() -> None:
    assert demo_ap(precision="f32", data={"limit": 16}) > MIN_AP - 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "values", [{}, {"backend": "onnxruntime"}, {"profile": "upstream"}], ids=str
)
def test_the_demo_is_accurate(values: dict[str, object]) -> None:
    assert demo_ap(precision="f32", **values) >= MIN_AP


@pytest.mark.slow
def test_bf16_keeps_the_accuracy_of_the_demo() -> None:
    skip_without_bf16()
    assert demo_ap(precision="bf16") == pytest.approx(demo_ap(precision="f32"), abs=BF16_TOLERANCE)


def test_the_card_is_of_the_shipped_weights() -> None:
    card = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert card["sha256"] == sha256_hex(WEIGHTS.read_bytes())
    assert card["held_out"]["AP"] >= MIN_AP


def test_the_shipped_weights_have_the_published_names_and_shapes(shared: Path) -> None:
    manifest = json.loads((shared / "reference/lightweight_openpose_state_dict.json").read_text())
    weights = torch.load(WEIGHTS, weights_only=True)
    assert {name: list(tensor.shape) for name, tensor in weights.items()} == manifest
