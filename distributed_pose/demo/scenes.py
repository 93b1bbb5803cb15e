"""Composes pictures of people: their number, sizes, positions and annotations."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.demo.backgrounds import draw_background, draw_occluder, light
from distributed_pose.demo.drawing import (
    OWNERS_PER_PERSON,
    Canvas,
    draw_figure,
    visible_keypoints,
)
from distributed_pose.demo.figures import HEAD_RADIUS, Figure, sample_figure
from distributed_pose.demo.wardrobe import sample_outfit
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet

# These sizes, (height, width) in pixels, occur in COCO. Each has its share of the pictures.
_SIZES_HW = (
    *(((480, 640), 0.40), ((640, 480), 0.14), ((427, 640), 0.14), ((640, 427), 0.08)),
    *(((375, 500), 0.08), ((500, 333), 0.05), ((333, 500), 0.05), ((612, 612), 0.03)),
    *(((361, 640), 0.03),),
)
# These are the probabilities of 0, 1, 2, ... people of full size.
_COUNTS = (0.07, 0.43, 0.28, 0.15, 0.07)
# The height of a person has a range for each number of people, in shares of the image height.
_HEIGHTS = ((0.55, 0.92), (0.55, 0.92), (0.48, 0.85), (0.42, 0.72), (0.38, 0.62))
_CROWD_CHANCE, _UNLABELLED_CHANCE, _OCCLUDER_CHANCE = 0.04, 0.08, 0.14
_CROWD_HEIGHT, _UNLABELLED_HEIGHT = (0.14, 0.2), (0.13, 0.18)
# Each person is placed in at most so many tries, until other boxes cover less than this share.
_TRIES, _MAX_COVER = 12, 0.22
_MIN_VISIBLE_PX = 40


@dataclass(frozen=True)
class Person:
    """The annotation of a person, or of a crowd as a whole.

    Attributes:
        keypoints_Dx3: float64 [D, 3], x and y in image pixels in COCO's frame, and COCO visibility
            of the keypoints of the dataset; all 0 if unlabelled.
        mask_HW: bool [H, W], true at the pixels where the person is visible.
        crowd: whether the annotation is for a group of people.
    """

    keypoints_Dx3: npt.NDArray[np.float64]
    mask_HW: npt.NDArray[np.bool_]
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """A picture and its people.

    Attributes:
        image_HW3: picture, uint8 [H, W, 3], BGR.
        people: annotations of the visible people and crowds.
    """

    image_HW3: npt.NDArray[np.uint8]
    people: tuple[Person, ...]


def render_scene(seed: int, index: int, keypoints: KeypointSet | None = None) -> Scene:
    """Returns picture `index` of a seed; it does not depend on any other picture.

    Args:
        seed: seed of the pictures.
        index: number of the picture.
        keypoints: keypoint set of the annotations, on which the picture does not depend; None is
            the body of COCO.
    """
    generator = np.random.default_rng((seed, index))
    height, width = _sample_size(generator)
    image_HW3 = draw_background(generator, height, width)
    canvas = Canvas(image_HW3, np.zeros((height, width), np.int16))
    small = _small_figures(generator, height, width)
    figures = [*small, *_large_figures(generator, height, width)]
    for person, figure in enumerate(figures):
        draw_figure(canvas, figure, sample_outfit(generator), person)
    for figure in figures[len(small) :]:
        if generator.random() < _OCCLUDER_CHANCE:
            draw_occluder(generator, canvas, _box(figure))
    people = _people(canvas, figures, len(small), keypoints or coco_body())
    return Scene(light(generator, canvas.image_HW3), people)


def _sample_size(generator: np.random.Generator) -> tuple[int, int]:
    shares = [share for _, share in _SIZES_HW]
    return _SIZES_HW[int(generator.choice(len(_SIZES_HW), p=shares))][0]


def _large_figures(generator: np.random.Generator, height: int, width: int) -> list[Figure]:
    """Returns the labelled people in ascending order of size, so that the farthest is first."""
    count = int(generator.choice(len(_COUNTS), p=_COUNTS))
    limit_px = min(height, 1.25 * width)
    heights = sorted(generator.uniform(*_HEIGHTS[count], size=count) * limit_px)
    placed: list[Figure] = []
    for height_px in heights:
        for _ in range(_TRIES):
            figure = _place(generator, sample_figure(generator, height_px), height, width)
            if all(_cover(_box(figure), _box(other)) < _MAX_COVER for other in placed):
                placed.append(figure)
                break
    return placed


def _small_figures(generator: np.random.Generator, height: int, width: int) -> list[Figure]:
    """Returns a crowd of several figures, a single unlabelled figure, or none."""
    chance = generator.random()
    if chance < _CROWD_CHANCE:
        count, shares = int(generator.integers(6, 11)), _CROWD_HEIGHT
    elif chance < _CROWD_CHANCE + _UNLABELLED_CHANCE:
        count, shares = 1, _UNLABELLED_HEIGHT
    else:
        return []
    x, y = generator.uniform(0.1, 0.6) * width, generator.uniform(0.12, 0.35) * height
    figures = []
    for _ in range(count):
        figure = sample_figure(generator, generator.uniform(*shares) * height)
        offset = generator.uniform(0, (0.3 * width, 0.06 * height))
        figures.append(figure.moved(x + offset[0], y + offset[1]))
    return figures


def _place(generator: np.random.Generator, figure: Figure, height: int, width: int) -> Figure:
    """Returns the figure at a random position inside the image or cut off at an edge."""
    x, y, box_width, box_height = _box(figure)
    slack = 0.0 if generator.random() < 0.85 else 0.3
    low_x, high_x = -x - slack * box_width, width - x - (1 - slack) * box_width
    low_y, high_y = -y, height - y - (1 - slack) * box_height
    middle_x, middle_y = (low_x + high_x) / 2, (low_y + high_y) / 2
    low_x, high_x = min(low_x, middle_x), max(high_x, middle_x)
    low_y, high_y = min(low_y, middle_y), max(high_y, middle_y)
    return figure.moved(generator.uniform(low_x, high_x), generator.uniform(low_y, high_y))


def _box(figure: Figure) -> tuple[float, float, float, float]:
    """Returns x, y, width, height of the whole figure in pixels, including parts off the image."""
    margin = 0.7 * HEAD_RADIUS * figure.height_px
    low = figure.joints_Jx3[:, :2].min(axis=0) - margin
    size = figure.joints_Jx3[:, :2].max(axis=0) + margin - low
    return float(low[0]), float(low[1]), float(size[0]), float(size[1])


def _cover(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Returns the overlap of two boxes as a share of the smaller one."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0) / min(a[2] * a[3], b[2] * b[3])


def _people(
    canvas: Canvas, figures: list[Figure], num_small: int, keypoints: KeypointSet
) -> tuple[Person, ...]:
    person_HW = canvas.owners_HW // OWNERS_PER_PERSON - 1
    people = []
    if num_small:
        unlabelled = np.zeros((keypoints.num_dataset_keypoints, 3))
        small_HW = (person_HW >= 0) & (person_HW < num_small)
        people.append(Person(unlabelled, _closed(small_HW), crowd=num_small > 1))
    for person in range(num_small, len(figures)):
        visible_Dx3 = visible_keypoints(canvas, figures[person], person, keypoints)
        people.append(Person(visible_Dx3, person_HW == person))
    return tuple(person for person in people if person.mask_HW.sum() >= _MIN_VISIBLE_PX)


def _closed(mask_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    kernel = np.ones((5, 5), np.uint8)
    closed = cv2.morphologyEx(mask_HW.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    return closed.astype(bool)
