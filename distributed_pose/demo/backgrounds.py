"""Draws the background, the objects in front of people, and the light.

Legend: images are uint8 [H, W, 3], BGR.
"""

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.demo.drawing import OCCLUDER, Canvas, fill_discs
from distributed_pose.demo.wardrobe import random_colour, shaded

Image = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # x, y, width, height in image pixels

_MAX_CLUTTER = 12
_NOISE_SIGMA = 4.0


def draw_background(generator: np.random.Generator, height: int, width: int) -> Image:
    """Returns a new image with clouds of colour, and at random a ground, a texture and objects."""
    image_HW3 = _clouds(generator, height, width)
    if generator.random() < 0.6:
        _draw_ground(generator, image_HW3)
    if generator.random() < 0.5:
        _draw_texture(generator, image_HW3)
    for _ in range(int(generator.integers(_MAX_CLUTTER + 1))):
        _draw_object(generator, image_HW3)
    return image_HW3


def draw_occluder(generator: np.random.Generator, canvas: Canvas, person: Box) -> None:
    """Paints a board, a pole or a bush over a part of a person's box, in place."""
    x, y, width, height = person
    colour = random_colour(generator, saturation=(30, 200), value=(50, 200))
    centre_x = x + width * generator.uniform(0, 1)
    kind = int(generator.integers(3))
    mask_HW = np.zeros(canvas.owners_HW.shape, np.uint8)
    if kind == 0:
        top = y + height * generator.uniform(0.62, 0.85)
        _fill_rectangle(mask_HW, (centre_x - 0.6 * width, top, 1.2 * width, height))
    elif kind == 1:
        _fill_rectangle(mask_HW, (centre_x, 0, max(4.0, 0.035 * height), len(mask_HW)))
    else:
        _fill_bush(generator, mask_HW, (centre_x, y + 0.95 * height), 0.13 * height)
    canvas.image_HW3[mask_HW > 0] = colour
    canvas.owners_HW[mask_HW > 0] = OCCLUDER


def light(generator: np.random.Generator, image_HW3: Image) -> Image:
    """Returns the image under uneven light, with the noise and sometimes the blur of a camera."""
    height, width = image_HW3.shape[:2]
    coarse = generator.uniform(0.72, 1.18, (2, 3)).astype(np.float32)
    gain_HW = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    if generator.random() < 0.3:
        blurred = cv2.GaussianBlur(image_HW3, (0, 0), generator.uniform(0.5, 1.0))
        image_HW3 = np.asarray(blurred, np.uint8)
    tile = _noise_tile(generator)
    rows, columns = -(-height // len(tile)), -(-width // len(tile))
    noise_HW3 = np.tile(tile, (rows, columns, 1))[:height, :width]
    lit = cv2.multiply(image_HW3, cv2.merge([gain_HW] * 3), dtype=cv2.CV_32F)
    return np.asarray(cv2.add(lit, noise_HW3, dtype=cv2.CV_8U), np.uint8)


def _noise_tile(generator: np.random.Generator) -> npt.NDArray[np.float32]:
    size = 128
    sigma = np.float32(generator.uniform(0, _NOISE_SIGMA))
    return generator.standard_normal((size, size, 3), np.float32) * sigma


def _clouds(generator: np.random.Generator, height: int, width: int) -> Image:
    cells = (int(generator.integers(2, 9)), int(generator.integers(2, 9)))
    base = np.array(random_colour(generator, saturation=(10, 130), value=(70, 240)))
    spread = generator.uniform(8, 40)
    coarse = base + generator.normal(0, spread, (*cells, 1))
    coarse = coarse + generator.normal(0, 0.35 * spread, (*cells, 3))
    coarse = np.clip(coarse, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _draw_ground(generator: np.random.Generator, image_HW3: Image) -> None:
    horizon = int(len(image_HW3) * generator.uniform(0.5, 0.85))
    colour = np.array(random_colour(generator, saturation=(20, 140), value=(60, 210)))
    fade = np.linspace(0.75, 1.1, len(image_HW3) - horizon)[:, None]
    image_HW3[horizon:] = np.clip(fade * colour, 0, 255).astype(np.uint8)[:, None]


def _draw_texture(generator: np.random.Generator, image_HW3: Image) -> None:
    """Paints stripes, tiles or bricks over a part of the image that reaches its upper edge."""
    height, width = image_HW3.shape[:2]
    bottom = int(height * generator.uniform(0.3, 1.0))
    period = int(generator.integers(14, 60))
    tone = shaded(random_colour(generator, saturation=(10, 120), value=(60, 220)), 1.0)
    thickness = int(generator.integers(1, max(2, period // 4)))
    kind = int(generator.integers(3))
    if kind != 1:
        for x in range(int(generator.integers(period)), width, period):
            cv2.line(image_HW3, (x, 0), (x, bottom), tone, thickness)
    if kind != 0:
        for y in range(int(generator.integers(period)), bottom, period):
            cv2.line(image_HW3, (0, y), (width, y), tone, thickness)


def _draw_object(generator: np.random.Generator, image_HW3: Image) -> None:
    """Paints a ball, a box, a rod or a flat piece, which are shapes that also occur in figures."""
    height, width = image_HW3.shape[:2]
    x, y = generator.uniform(0, width), generator.uniform(0, height)
    size = min(height, width) * generator.uniform(0.03, 0.16)
    colour = random_colour(generator, saturation=(20, 220), value=(40, 245))
    discs = _object_discs(generator, x, y, size)
    if generator.random() < 0.6:
        rim = [(at_x, at_y, radius + 1.5) for at_x, at_y, radius in discs]
        fill_discs(image_HW3, rim, shaded(colour, 0.55))
    fill_discs(image_HW3, discs, colour)


def _object_discs(
    generator: np.random.Generator, x: float, y: float, size: float
) -> list[tuple[float, float, float]]:
    kind = int(generator.integers(4))
    if kind == 0:
        return [(x, y, size)]
    if kind == 1:
        tall = size * generator.uniform(0.5, 2.0)
        return [(x + i * size, y + j * tall, 2.0) for i in (-1, 1) for j in (-1, 1)]
    corners = 2 if kind == 2 else int(generator.integers(3, 6))
    radius = size * (0.2 if kind == 2 else 0.1)
    reach = generator.uniform(-2.5, 2.5, (corners, 2)) * size
    return [(x + float(dx), y + float(dy), radius) for dx, dy in reach]


def _fill_rectangle(mask_HW: npt.NDArray[np.uint8], box: Box) -> None:
    x, y, width, height = box
    corners = (round(x), round(y)), (round(x + width), round(y + height))
    cv2.rectangle(mask_HW, *corners, 255, cv2.FILLED)


def _fill_bush(
    generator: np.random.Generator,
    mask_HW: npt.NDArray[np.uint8],
    centre: tuple[float, float],
    size: float,
) -> None:
    for dx, dy in generator.uniform(-1, 1, (9, 2)) * size * (1.3, 0.7):
        at = (round(centre[0] + dx), round(centre[1] + dy))
        cv2.circle(mask_HW, at, round(0.55 * size), 255, cv2.FILLED)
