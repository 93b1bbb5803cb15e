"""Trains the demo's model from scratch on rendered people.

    python -m distributed_pose.demo.train --out DIR --minutes 75
    python -m distributed_pose.demo.train --out DIR --minutes 5 --keypoints FILE --initial MODEL

The learning rate follows the share of the time budget that is spent, so that a run ends on time on
a busy machine. The same command continues an interrupted run from its last checkpoint. On a machine
with other work, `OMP_WAIT_POLICY=passive` in the environment prevents waiting threads from taking
processor time from computing threads.

Source of the losses: Cao et al., "OpenPose", arXiv:1812.08008, section 3.2.
"""

import argparse
import copy
import io
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distributed_pose.demo.figures import check_joints
from distributed_pose.demo.samples import CropPlan, SceneCrops, loader
from distributed_pose.errors import ConfigError, PoseEvalError, SetupError
from distributed_pose.files.local import write_atomically
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.model.architecture import Weights, set_channels
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.checkpoint import load_checkpoint
from distributed_pose.model.network import LightweightOpenPose

CHECKPOINT = "checkpoint.pth"
_LOG = logging.getLogger("distributed_pose.demo.train")

_WARM_UP_STEPS = 100
_FINAL_RATE_SHARE = 0.01
_WEIGHT_DECAY = 1e-4
_MAX_GRADIENT_NORM = 1.0
_MAX_AVERAGING = 0.998
_LOG_STEPS = 25
_CHECKPOINT_SECONDS = 180.0

Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Options:
    """The options of a training run.

    Attributes:
        minutes: training time in minutes, summed over all sessions of the run.
        rate: highest learning rate.
        seed: seed of the initial weights and of the pictures.
        threads: number of threads of PyTorch.
        plan: sizes and numbers of crops and batches.
    """

    minutes: float = 75.0
    rate: float = 1e-3
    seed: int = 1
    threads: int = 2
    plan: CropPlan = field(default_factory=CropPlan)


@dataclass
class Progress:
    """The progress of a training run.

    Attributes:
        step: number of steps taken.
        seconds: training time so far, in seconds.
    """

    step: int = 0
    seconds: float = 0.0


class Trainer:
    """Owns the network, its averaged copy and the optimiser, and takes training steps.

    The averaged copy is evaluated and published.

    Args:
        options: options of the training run.
        keypoints: keypoint set of the network; None is the body of COCO.
    """

    def __init__(self, options: Options, keypoints: KeypointSet | None = None) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.keypoints = keypoints or coco_body()
        self.progress = Progress()
        self.network = LightweightOpenPose(channels=set_channels(self.keypoints))
        # mypy does not know this keyword of `to`.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        _initialise(self.network)
        self.averaged = copy.deepcopy(self.network).eval()
        self._optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=options.rate, weight_decay=_WEIGHT_DECAY
        )

    def step(self, batch: Batch) -> float:
        """Takes a step with a batch, and returns the loss of the batch before the step."""
        started = time.monotonic()
        self._set_rate()
        loss = self._loss(batch)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._average()
        self.progress.step += 1
        self.progress.seconds += time.monotonic() - started
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Returns the state that `load_state` continues from."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "progress": asdict(self.progress),
            "options": asdict(self.options),
            "keypoints": self.keypoints.identity,
        }

    def initialise(self, weights: Weights) -> None:
        """Starts from weights of a network, except for tensors of another shape.

        Tensors that depend on the number of keypoints or limbs keep their random values where the
        numbers differ.
        """
        for network in (self.network, self.averaged):
            own = network.state_dict()
            alike = {
                name: torch.from_numpy(weight)
                for name, weight in weights.items()
                if own[name].shape == weight.shape
            }
            network.load_state_dict(alike, strict=False)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from the result of `state`."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])

    def _loss(self, batch: Batch) -> torch.Tensor:
        images_N3SS, targets_NMss, mask_N1ss = batch
        images_N3SS = images_N3SS.contiguous(memory_format=torch.channels_last)
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network(images_N3SS)
        return stage_losses(outputs, targets_NMss, mask_N1ss)

    def _set_rate(self) -> None:
        share = min(1.0, self.progress.seconds / (60 * self.options.minutes))
        cosine = _FINAL_RATE_SHARE + (1 - _FINAL_RATE_SHARE) * (1 + math.cos(math.pi * share)) / 2
        warm_up = min(1.0, (self.progress.step + 1) / _WARM_UP_STEPS)
        for group in self._optimiser.param_groups:
            group["lr"] = self.options.rate * cosine * warm_up

    @torch.no_grad()
    def _average(self) -> None:
        # The average has a short memory at first, so that it forgets the random initial weights.
        decay = min(_MAX_AVERAGING, (1 + self.progress.step) / (10 + self.progress.step))
        ours, theirs = self.averaged.state_dict(), self.network.state_dict()
        for name, value in theirs.items():
            if value.is_floating_point():
                ours[name].lerp_(value, 1 - decay)
            else:
                ours[name].copy_(value)


def stage_losses(
    outputs: tuple[torch.Tensor, ...], targets_NMss: torch.Tensor, mask_N1ss: torch.Tensor
) -> torch.Tensor:
    """Returns the squared errors of all stages, summed over maps and averaged over known cells.

    Args:
        outputs: heatmaps and PAFs of each stage, in the order of the network's outputs.
        targets_NMss: float32 [N, M, s, s], the target heatmaps followed by the target PAFs.
        mask_N1ss: float32 [N, 1, s, s], 1 where the targets are known and 0 elsewhere.
    """
    num_heatmaps = outputs[0].shape[1]
    targets = (targets_NMss[:, :num_heatmaps], targets_NMss[:, num_heatmaps:])
    losses = [
        ((output.float() - targets[index % 2]) ** 2 * mask_N1ss).sum()
        for index, output in enumerate(outputs)
    ]
    return torch.stack(losses).sum() / mask_N1ss.sum().clamp(min=1)


def train(
    options: Options,
    folder: Path,
    keypoints: KeypointSet | None = None,
    initial: Weights | None = None,
) -> Trainer:
    """Trains until the time is used up, and returns the trainer.

    Args:
        options: options of the training run.
        folder: folder of the checkpoint; training continues from an existing one.
        keypoints: keypoint set of the network; None is the body of COCO.
        initial: weights that a new run starts from; None for random ones.

    Raises:
        ConfigError: if rendered people lack a keypoint of the set, or the checkpoint in the folder
            is of another set.
    """
    torch.set_num_threads(options.threads)
    trainer = Trainer(options, keypoints)
    check_joints(trainer.keypoints)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        trainer.load_state(read_checkpoint(checkpoint, trainer.keypoints))
        _LOG.info("continue at step %d", trainer.progress.step)
    elif initial is not None:
        trainer.initialise(initial)
    scenes = trainer.progress.step * options.plan.batch_size // options.plan.crops_per_scene
    batches = loader(SceneCrops(options.plan, options.seed, scenes, trainer.keypoints))
    _run(trainer, batches, checkpoint)
    save(trainer, checkpoint)
    return trainer


def save(trainer: Trainer, path: Path) -> None:
    """Writes a checkpoint atomically."""
    stream = io.BytesIO()
    torch.save(trainer.state(), stream)
    write_atomically(path, stream.getvalue())


def read_checkpoint(path: Path, keypoints: KeypointSet) -> dict[str, Any]:
    """Returns the state in the checkpoint of a run.

    Raises:
        SetupError: if there is no checkpoint.
        ConfigError: if it is of a run with another keypoint set.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from None
    if _set_of(state) != keypoints.identity:
        raise ConfigError(
            f"{path} is of keypoint set {_set_of(state)}, not of {keypoints.identity}",
            "give the --keypoints of the run, or another folder",
        )
    return state


def _set_of(state: Mapping[str, Any]) -> str:
    # Checkpoints did not name the set when there was only the body of COCO.
    return str(state.get("keypoints", coco_body().identity))


def command(state: Mapping[str, Any]) -> str:
    """Returns the command line of the run of a checkpoint."""
    options = state["options"]
    plan = options["plan"]
    given = {name: options[name] for name in ("minutes", "rate", "seed", "threads")}
    given |= {"side": plan["side_px"], "batch": plan["batch_size"]}
    flags = " ".join(f"--{name} {value:g}" for name, value in given.items())
    flags += "" if _set_of(state) == coco_body().identity else " --keypoints FILE"
    return f"python -m distributed_pose.demo.train --out DIR {flags}"


def _run(trainer: Trainer, batches: Iterator[Batch], checkpoint: Path) -> None:
    saved_at = time.monotonic()
    losses: list[float] = []
    while trainer.progress.seconds < 60 * trainer.options.minutes:
        waited_from = time.monotonic()
        batch = next(batches)
        trainer.progress.seconds += time.monotonic() - waited_from
        losses.append(trainer.step(batch))
        if trainer.progress.step % _LOG_STEPS == 0:
            _log(trainer.progress, losses[-_LOG_STEPS:])
        if time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
            save(trainer, checkpoint)
            saved_at = time.monotonic()


def _log(progress: Progress, losses: list[float]) -> None:
    line = {
        "step": progress.step,
        "minutes": round(progress.seconds / 60, 2),
        "loss": round(sum(losses) / len(losses), 4),
    }
    _LOG.info(json.dumps(line))


def _initialise(network: LightweightOpenPose) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out" if module.groups > 1 else "fan_in"
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for stage in (network.initial_stage, *network.refinement_stages):
        for head in (stage.heatmaps, stage.pafs):
            nn.init.normal_(head[-1][0].weight, std=0.01)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    defaults = Options()
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--minutes", type=float, default=defaults.minutes)
    parser.add_argument("--rate", type=float, default=defaults.rate)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--side", type=int, default=defaults.plan.side_px, help="crop, in pixels")
    parser.add_argument("--batch", type=int, default=defaults.plan.batch_size)
    parser.add_argument("--keypoints", type=Path, help="YAML file of a keypoint set")
    parser.add_argument("--initial", type=Path, help="checkpoint that a new run starts from")
    return parser.parse_args()


def _weights(path: Path) -> Weights:
    return load_checkpoint(load_source(path).content, str(path)).weights


def main() -> None:
    """Trains with the options of the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = _arguments()
    plan = CropPlan(side_px=given.side, batch_size=given.batch)
    options = Options(given.minutes, given.rate, given.seed, given.threads, plan)
    try:
        keypoints = read_keypoint_set(given.keypoints) if given.keypoints else None
        initial = _weights(given.initial) if given.initial else None
        train(options, given.out, keypoints, initial)
    except PoseEvalError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
