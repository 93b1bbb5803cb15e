"""Samples the colours and clothes of the figures."""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]  # BGR

_SKINS: tuple[Colour, ...] = (
    *((172, 201, 240), (140, 178, 226), (115, 152, 205)),
    *((84, 122, 178), (60, 92, 142), (45, 66, 105)),
)
_HAIRS: tuple[Colour, ...] = (
    *((25, 24, 28), (32, 44, 66), (40, 70, 110)),
    *((90, 160, 210), (60, 90, 170), (150, 150, 150)),
)
PRINTS = ("plain", "stripes", "badge", "buttons")


@dataclass(frozen=True)
class Outfit:
    """The clothes and colours of a figure; colours are BGR."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trim: Colour
    trousers: Colour
    shoes: Colour
    print: str
    long_sleeves: bool
    long_trousers: bool
    long_hair: bool
    backpack: bool


def sample_outfit(generator: np.random.Generator) -> Outfit:
    """Returns a random outfit."""
    shirt = random_colour(generator, saturation=(40, 220), value=(90, 250))
    return Outfit(
        skin=_near(generator, _SKINS[int(generator.integers(len(_SKINS)))]),
        hair=_near(generator, _HAIRS[int(generator.integers(len(_HAIRS)))]),
        shirt=shirt,
        trim=_contrasting(shirt),
        trousers=random_colour(generator, saturation=(20, 180), value=(40, 170)),
        shoes=random_colour(generator, saturation=(0, 160), value=(30, 240)),
        print=PRINTS[int(generator.integers(len(PRINTS)))],
        long_sleeves=bool(generator.random() < 0.45),
        long_trousers=bool(generator.random() < 0.65),
        long_hair=bool(generator.random() < 0.35),
        backpack=bool(generator.random() < 0.35),
    )


def random_colour(
    generator: np.random.Generator, saturation: tuple[int, int], value: tuple[int, int]
) -> Colour:
    """Returns a BGR colour of any hue, with saturation and value from the ranges, in 0 to 255."""
    hsv = (generator.integers(180), generator.integers(*saturation), generator.integers(*value))
    b, g, r = cv2.cvtColor(np.array([[hsv]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return (b, g, r)


def shaded(colour: Colour, factor: float) -> Colour:
    """Returns the colour, darker for factors below 1 and lighter above."""
    b, g, r = (min(255, int(component * factor)) for component in colour)
    return (b, g, r)


def _near(generator: np.random.Generator, colour: Colour) -> Colour:
    return shaded(colour, generator.uniform(0.88, 1.1))


def _contrasting(colour: Colour) -> Colour:
    return (240, 240, 240) if sum(colour) < 380 else (50, 40, 40)
