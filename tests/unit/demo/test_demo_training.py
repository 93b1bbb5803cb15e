"""Training of the demo's network: batches, loss, resumed runs and published weights."""

import json

import numpy as np
import pytest
import torch

from distributed_pose.demo import publish, train
from distributed_pose.demo.samples import CropPlan, SceneCrops, crops
from distributed_pose.demo.scenes import render_scene
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.model.export import write_checkpoint
from distributed_pose.pose.decode import Decoder
from distributed_pose.records.images import Geometry
from tests.checkpoints import network_in

PLAN = CropPlan(side_px=64, crops_per_scene=2, batch_size=2, shuffled=4)
NUM_HEATMAPS, NUM_PAFS = coco_body().num_heatmaps, coco_body().num_pafs
OPTIONS = train.Options(minutes=10.0, rate=2e-3, plan=PLAN)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def first_batch(first_scene=0):
    return next(iter(SceneCrops(PLAN, seed=1, first_scene=first_scene)))


def scene_with(condition):
    return next(s for s in (render_scene(0, k) for k in range(200)) if condition(s.people))


def test_batches_hold_inputs_targets_and_masks_of_one_grid():
    images, targets, masks = first_batch()
    assert images.shape == (2, 3, 64, 64)
    assert targets.shape == (2, NUM_HEATMAPS + NUM_PAFS, 8, 8)
    assert masks.shape == (2, 1, 8, 8)
    assert {tensor.dtype for tensor in (images, targets, masks)} == {torch.float32}
    assert images.abs().max() <= 0.5


def test_batches_depend_only_on_the_seed_and_the_first_scene():
    for ours, theirs in zip(first_batch(), first_batch(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first_batch()[0], first_batch(first_scene=50)[0])


def test_unlabelled_people_and_crowds_are_masked():
    scene = scene_with(lambda people: any(person.crowd for person in people))
    generator = np.random.default_rng(0)
    plan = CropPlan(side_px=640, crops_per_scene=1)
    [(_, targets, mask)] = crops(generator, scene, plan, coco_body())
    assert (mask == 0).any()
    assert (mask == 1).mean() > 0.5
    assert targets.shape[1:] == mask.shape[1:]


def test_targets_decode_to_the_labelled_keypoints():
    scene = scene_with(lambda people: len(people) == 1 and people[0].keypoints_Dx3[:, 2].all())
    plan = CropPlan(side_px=640, crops_per_scene=1)
    [(_, targets, _)] = crops(np.random.default_rng(0), scene, plan, coco_body())
    poses = Decoder(coco_body()).decode(
        targets[:NUM_HEATMAPS], targets[NUM_HEATMAPS:], Geometry(640, 640, 0, 0, 0, 0)
    )
    assert len(poses.scores_P) == 1
    found, known = poses.keypoints_PV[0].reshape(17, 3), scene.people[0].keypoints_Dx3
    assert (found[:, 2] == 1).all()
    # The crop is a scaled and shifted copy: what remains after a fit is the decoder's rounding.
    ones = np.ones((17, 1))
    fit, *_ = np.linalg.lstsq(np.hstack([known[:, :2], ones]), found[:, :2], rcond=None)
    assert np.abs(np.hstack([known[:, :2], ones]) @ fit - found[:, :2]).max() < 2.5


def test_loss_ignores_masked_cells():
    outputs = [torch.zeros(1, count, 2, 2) for count in (NUM_HEATMAPS, NUM_PAFS) * 2]
    targets, mask = torch.zeros(1, NUM_HEATMAPS + NUM_PAFS, 2, 2), torch.ones(1, 1, 2, 2)
    outputs[0][0, 3, 1, 1] = 2.0
    assert train.stage_losses(tuple(outputs), targets, mask).item() == pytest.approx(1.0)
    mask[0, 0, 1, 1] = 0
    assert train.stage_losses(tuple(outputs), targets, mask).item() == 0


@pytest.mark.slow
def test_a_few_steps_on_one_batch_lower_the_loss():
    trainer, batch = train.Trainer(OPTIONS), first_batch()
    losses = [trainer.step(batch) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.progress.step == 12


@pytest.mark.slow
def test_a_run_resumes_where_it_was_saved(tmp_path):
    trainer, batch = train.Trainer(OPTIONS), first_batch()
    trainer.step(batch)
    train.save(trainer, tmp_path / train.CHECKPOINT)
    expected = trainer.step(batch)
    resumed = train.Trainer(OPTIONS)
    resumed.load_state(torch.load(tmp_path / train.CHECKPOINT, weights_only=True))
    assert resumed.progress.step == 1
    assert resumed.step(batch) == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_published_weights_load_as_a_checkpoint_and_have_a_card(tmp_path):
    trainer = train.Trainer(OPTIONS)
    train.save(trainer, tmp_path / train.CHECKPOINT)
    content = write_checkpoint(publish.weights_of(trainer.averaged.state_dict()))
    figures = publish.demo_figures(content, num_images=2)
    assert set(figures) >= {"AP", "AP50", "AR"}
    weights = tmp_path / "model.onnx"
    card = publish.publish(tmp_path, weights, "2026-01-31", num_images=2)
    assert json.loads(weights.with_suffix(".json").read_text()) == card
    assert card["date"] == "2026-01-31"
    assert weights.stat().st_size < 9_000_000
    network = network_in(weights)
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
