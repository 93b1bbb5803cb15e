"""Preprocessing profiles: how an image is scaled and padded into a network input.

A profile is part of what an accuracy figure means, so it is named in every report.

Source: `modelzoo` is the vendor's offline-inference guide (fixed shape, what NPUs run), `upstream`
is the validation script of the reference implementation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2

STRIDE = 8
BASE_HEIGHT = 368


@dataclass(frozen=True)
class Profile:
    """Scale and canvas of a profile; sizes in input pixels.

    Attributes:
        name: the name in configurations and reports.
        interpolation: OpenCV's constant for the resize of the normalised image.
        fixed_width: width of the canvas; None where it follows the image.
    """

    name: str
    interpolation: int
    fixed_width: int | None

    def scale(self, height: int, width: int) -> float:
        """Returns the factor from image pixels to input pixels, the same on both axes."""
        by_height = BASE_HEIGHT / height
        return by_height if self.fixed_width is None else min(by_height, self.fixed_width / width)

    def canvas(self, resized_width: int) -> tuple[int, int]:
        """Returns height and width of the network input for a resized image."""
        if self.fixed_width is not None:
            return BASE_HEIGHT, self.fixed_width
        width = max(resized_width, BASE_HEIGHT)
        return BASE_HEIGHT, -(-width // STRIDE) * STRIDE

    @property
    def nominal_input(self) -> tuple[int, int]:
        """Height and width of a typical network input, for warm-up."""
        return self.canvas(self.fixed_width or 656)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "modelzoo": Profile("modelzoo", cv2.INTER_LINEAR, 640),
        "upstream": Profile("upstream", cv2.INTER_CUBIC, None),
    }
)
