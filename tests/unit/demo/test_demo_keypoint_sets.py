"""The demo's pictures, training and publishing are for any set of the joints that it renders."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distributed_pose import ConfigError, SetupError
from distributed_pose.demo import publish, train
from distributed_pose.demo.dataset import write_dataset
from distributed_pose.demo.samples import CropPlan, SceneCrops, crops
from distributed_pose.demo.scenes import render_scene
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set
from distributed_pose.model.checkpoint import load_checkpoint
from distributed_pose.pose.decode import Decoder
from distributed_pose.records.images import Geometry
from tests.chain_sets import chain_of

SIX = read_keypoint_set(Path(__file__).parents[3] / "examples" / "six_keypoints.yaml")
PLAN = CropPlan(side_px=64, crops_per_scene=2, batch_size=2, shuffled=4)
OPTIONS = train.Options(minutes=10.0, threads=1, plan=PLAN)


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_dataset_of_another_set_has_the_same_pictures_and_the_sets_annotations(
    tmp_path: Path,
) -> None:
    body, six = (
        write_dataset(tmp_path / "body", 3),
        write_dataset(tmp_path / "six", 3, keypoints=SIX),
    )
    for path in body.images.iterdir():
        assert path.read_bytes() == (six.images / path.name).read_bytes()
    document = json.loads(six.annotations.read_text())
    (category,) = document["categories"]
    assert category["keypoints"] == ["head", "waist", *SIX.dataset_keypoints[2:]]
    assert category["skeleton"] == [[2, 1], [2, 3], [2, 4], [2, 5], [2, 6]]
    others = json.loads(body.annotations.read_text())["annotations"]
    for person, other in zip(document["annotations"], others, strict=True):
        assert len(person["keypoints"]) == 18
        assert person["bbox"] == other["bbox"]
    assert any(person["num_keypoints"] == 6 for person in document["annotations"])


def test_a_set_with_a_keypoint_that_no_figure_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"chain_of_2: rendered people have no point_0.*nose"):
        write_dataset(tmp_path, 1, keypoints=chain_of(2))


def test_targets_of_a_set_decode_to_its_labelled_keypoints() -> None:
    scenes = (render_scene(0, number, SIX) for number in range(200))
    scene = next(
        one for one in scenes if len(one.people) == 1 and one.people[0].keypoints_Dx3[:, 2].all()
    )
    plan = CropPlan(side_px=640, crops_per_scene=1)
    [(_, targets, _)] = crops(np.random.default_rng(0), scene, plan, SIX)
    assert targets.shape == (7 + 10, 80, 80)
    geometry = Geometry(640, 640, 0, 0, 0, 0)
    poses = Decoder(SIX).decode(targets[:7], targets[7:], geometry)
    (found,) = poses.keypoints_PV.reshape(-1, 6, 3)
    assert (found[:, 2] == 1).all()


def test_batches_have_the_channels_of_the_set() -> None:
    _, targets, _ = next(iter(SceneCrops(PLAN, seed=1, keypoints=SIX)))
    assert targets.shape == (2, 17, 8, 8)


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another_set_except_its_heads() -> None:
    donor = publish.weights_of(train.Trainer(OPTIONS).network.state_dict())
    trainer = train.Trainer(replace(OPTIONS, seed=2), SIX)
    trainer.initialise(donor)
    for network in (trainer.network, trainer.averaged):
        state = network.state_dict()
        alike = {name for name, weight in donor.items() if state[name].shape == weight.shape}
        assert all(np.array_equal(state[name].numpy(), donor[name]) for name in alike)
        others = {name.removesuffix(".weight").removesuffix(".bias") for name in {*donor} - alike}
        heads = (
            f"{stage}.{kind}.1.0"
            for stage in ("initial_stage", "refinement_stages.0")
            for kind in ("heatmaps", "pafs")
        )
        assert others == {*heads, "refinement_stages.0.trunk.0.initial.0"}


def test_a_checkpoint_of_another_set_is_neither_continued_nor_published(tmp_path: Path) -> None:
    train.save(train.Trainer(OPTIONS, SIX), tmp_path / train.CHECKPOINT)
    with pytest.raises(ConfigError, match=r"of keypoint set six_keypoints.*not of coco_body"):
        train.train(OPTIONS, tmp_path)
    with pytest.raises(ConfigError, match=r"of keypoint set six_keypoints.*not of coco_body"):
        publish.publish(tmp_path, tmp_path / "model.onnx", "2026-01-31")


def test_a_checkpoint_that_names_no_set_is_of_the_body_of_coco(tmp_path: Path) -> None:
    path = tmp_path / train.CHECKPOINT
    state = train.Trainer(OPTIONS).state()
    del state["keypoints"]
    torch.save(state, path)
    assert "--keypoints" not in train.command(train.read_checkpoint(path, coco_body()))
    with pytest.raises(SetupError, match="cannot read"):
        train.read_checkpoint(tmp_path / "none.pth", coco_body())


@pytest.mark.slow
def test_a_trained_set_is_published_with_its_ap(tmp_path: Path) -> None:
    trainer = train.Trainer(OPTIONS, SIX)
    trainer.step(next(iter(SceneCrops(PLAN, seed=1, keypoints=SIX))))
    train.save(trainer, tmp_path / train.CHECKPOINT)
    weights = tmp_path / "six.onnx"
    card = publish.publish(tmp_path, weights, "2026-01-31", num_images=2, keypoints=SIX)
    assert card["command"].endswith("--keypoints FILE")
    assert 0 <= card["held_out"]["AP"] <= 1
    loaded = load_checkpoint(weights.read_bytes(), "six.onnx").weights
    assert loaded["initial_stage.heatmaps.1.0.weight"].shape[0] == 7
