"""Makes training samples: crops of rendered scenes, with targets and masks of labelled areas.

Source of the scale: profile `modelzoo`, so that people have the same size as in evaluation.

Legend: N samples, S side of a crop in network input pixels, s side of the output grid, M channels
of heatmaps and PAFs, D keypoints of the dataset.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset

from distributed_pose.demo.dataset import FIRST_TRAINING_SEED, encode_jpeg, person_box
from distributed_pose.demo.scenes import Scene, render_scene
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.targets import draw_heatmaps, draw_pafs, network_keypoints
from distributed_pose.records.images import BYTE_RANGE, MEAN_BYTE, STRIDE
from distributed_pose.vision.profiles import PROFILES

Floats = npt.NDArray[np.float32]

_SCALE_JITTER = (0.8, 1.25)
_BRIGHTNESS, _CONTRAST = (-20.0, 20.0), (0.8, 1.2)
# This level becomes 0 by the normalisation.
# The padding of network inputs, which is 0 after their normalisation.
_GREY = MEAN_BYTE
# Unlabelled people are masked with this margin, as a share of their box.
_MASK_MARGIN = 0.1
_AIM_CHANCE = 0.85
_AIM_SPREAD = 0.25


@dataclass(frozen=True)
class CropPlan:
    """The sizes and numbers of crops and batches.

    Attributes:
        side_px: side of a crop in network input pixels, a multiple of 8.
        crops_per_scene: number of crops from each rendered picture.
        batch_size: number of samples in a batch.
        shuffled: least number of samples that remain in the pool after a batch is drawn from it, so
            that crops of one picture end up in different batches.
    """

    side_px: int = 256
    crops_per_scene: int = 2
    batch_size: int = 8
    shuffled: int = 64


Sample = tuple[Floats, Floats, Floats]


class SceneCrops(IterableDataset[tuple[torch.Tensor, ...]]):
    """Yields batches without end.

    A batch is float32 images [N, 3, S, S], targets [N, M, s, s] and masks [N, 1, s, s].

    Args:
        plan: sizes and numbers of crops and batches.
        seed: seed of the pictures and crops.
        first_scene: index of the first picture. Later pictures follow in order, so that a resumed
            run gets new ones.
        keypoints: keypoint set of the targets; None is the body of COCO.
    """

    def __init__(
        self,
        plan: CropPlan,
        seed: int,
        first_scene: int = 0,
        keypoints: KeypointSet | None = None,
    ) -> None:
        super().__init__()
        self._plan, self._seed, self._first_scene = plan, seed, first_scene
        self._keypoints = keypoints or coco_body()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        cv2.setNumThreads(1)
        plan = self._plan
        generator = np.random.default_rng((self._seed, self._first_scene))
        pool: list[Sample] = []
        scene_index = self._first_scene
        while True:
            seed = FIRST_TRAINING_SEED + self._seed
            scene = render_scene(seed, scene_index, self._keypoints)
            pool += crops(generator, scene, plan, self._keypoints)
            scene_index += 1
            while len(pool) >= plan.shuffled + plan.batch_size:
                batch = [
                    pool.pop(int(generator.integers(len(pool)))) for _ in range(plan.batch_size)
                ]
                yield tuple(
                    torch.from_numpy(np.stack(arrays)) for arrays in zip(*batch, strict=True)
                )


def loader(crops_dataset: SceneCrops) -> Iterator[tuple[torch.Tensor, ...]]:
    """Returns an iterator over batches that a separate process renders ahead."""
    return iter(DataLoader(crops_dataset, batch_size=None, num_workers=1, prefetch_factor=8))


def crops(
    generator: np.random.Generator, scene: Scene, plan: CropPlan, keypoints: KeypointSet
) -> list[Sample]:
    """Returns samples of a scene; each is a tuple of input, target and mask."""
    coded = np.frombuffer(encode_jpeg(scene.image_HW3), np.uint8)
    image_HW3 = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    decoded = Scene(image_HW3, scene.people)
    return [_crop(generator, decoded, plan, keypoints) for _ in range(plan.crops_per_scene)]


def _crop(
    generator: np.random.Generator, scene: Scene, plan: CropPlan, keypoints: KeypointSet
) -> Sample:
    height, width = scene.image_HW3.shape[:2]
    scale = PROFILES["modelzoo"].scale(height, width) * generator.uniform(*_SCALE_JITTER)
    corner_px = _corner(generator, scene, scale, plan.side_px)
    input_3SS = _cut(_relit(generator, scene.image_HW3), scale, corner_px, plan.side_px)
    grid = (plan.side_px // STRIDE, plan.side_px // STRIDE)
    people = [_to_input(person.keypoints_Dx3, scale, corner_px) for person in scene.people]
    people_PKx3 = network_keypoints(people, keypoints)
    maps = draw_heatmaps(people_PKx3, grid), draw_pafs(people_PKx3, keypoints.limbs, grid)
    return input_3SS, np.concatenate(maps), _mask(scene, scale, corner_px, grid)


def _relit(
    generator: np.random.Generator, image_HW3: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    contrasted = (np.arange(256) - _GREY) * generator.uniform(*_CONTRAST) + _GREY
    levels = contrasted + generator.uniform(*_BRIGHTNESS)
    return np.asarray(cv2.LUT(image_HW3, np.clip(levels, 0, 255).astype(np.uint8)), np.uint8)


def _cut(image_HW3: npt.NDArray[np.uint8], scale: float, corner_px: Floats, side_px: int) -> Floats:
    """Returns a crop of the scaled image as a network input; it is 0 outside of the image."""
    offset_x, offset_y = 0.5 * scale - 0.5 - corner_px
    placing = np.array([[scale, 0, offset_x], [0, scale, offset_y]])
    crop_SS3 = cv2.warpAffine(
        image_HW3, placing, (side_px, side_px), flags=cv2.INTER_LINEAR, borderValue=(_GREY,) * 3
    )
    normalised = (crop_SS3.astype(np.float32) - MEAN_BYTE) / BYTE_RANGE
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _to_input(
    keypoints_Dx3: npt.NDArray[np.float64], scale: float, corner_px: Floats
) -> npt.NDArray[np.float64]:
    """Returns keypoints in crop pixels from COCO's frame, where a pixel's centre is at 0.5."""
    moved_Dx3 = keypoints_Dx3.copy()
    moved_Dx3[:, :2] = keypoints_Dx3[:, :2] * scale - 0.5 - corner_px
    return moved_Dx3


def _mask(scene: Scene, scale: float, corner_px: Floats, grid: tuple[int, int]) -> Floats:
    """Returns float32 [1, s, s], 0 at people whose keypoints are not labelled and 1 elsewhere."""
    mask_1ss = np.ones((1, *grid), np.float32)
    for person in scene.people:
        if not person.keypoints_Dx3[:, 2].any():
            x, y, width, height = person_box(person)
            margin = _MASK_MARGIN * np.array([width, height])
            low = (np.array([x, y]) - margin) * scale - corner_px
            high = (np.array([x + width, y + height]) + margin) * scale - corner_px
            first = np.maximum(0, np.floor(low / STRIDE)).astype(int)
            last = np.maximum(0, np.ceil(high / STRIDE)).astype(int)
            mask_1ss[:, first[1] : last[1], first[0] : last[0]] = 0
    return mask_1ss


def _corner(generator: np.random.Generator, scene: Scene, scale: float, side_px: int) -> Floats:
    """Returns x, y of the crop's corner in the scaled image, in input pixels.

    Most crops are aimed at a person.
    """
    size_px = np.array(scene.image_HW3.shape[1::-1]) * scale
    spare = size_px - side_px
    if scene.people and generator.random() < _AIM_CHANCE:
        person = scene.people[int(generator.integers(len(scene.people)))]
        x, y, width, height = person_box(person)
        aim = np.array([x + width / 2, y + height / 2]) * scale - side_px / 2
        aim = aim + generator.normal(0, _AIM_SPREAD, 2) * side_px
        return np.clip(aim, np.minimum(0, spare), np.maximum(0, spare)).astype(np.float32)
    share = generator.uniform(0, 1, 2)
    return (np.minimum(0, spare) + share * np.abs(spare)).astype(np.float32)
