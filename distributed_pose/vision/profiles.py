"""Defines the preprocessing profiles, which scale and pad an image into a network input.

An accuracy figure depends on the profile, so every report names it.

Source: `modelzoo` follows the vendor's offline-inference guide (fixed shape, as NPUs run it).
`upstream` follows the validation script (val.py) of the reference implementation, which normalises
and resizes in double because NumPy promotes its float32 image at the subtraction of the mean.
`uint8` is `modelzoo` with the image kept in bytes up to the network, which then normalises by
itself, as NPUs with AIPP do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from distributed_pose.records import MEAN_BYTE, STRIDE, Geometry

BASE_HEIGHT = 368


@dataclass(frozen=True)
class Profile:
    """A preprocessing profile: scale, canvas and arithmetic. Sizes are in input pixels.

    Attributes:
        name: name of the profile in configurations and reports.
        interpolation: OpenCV's constant for the interpolation of the resize.
        fixed_width: width of the canvas in input pixels; None if it follows the image.
        arithmetic: type that the image is normalised and resized in; uint8 for bytes that are
            resized and passed to the network without normalisation.
    """

    name: str
    interpolation: int
    fixed_width: int | None
    arithmetic: type[np.float64 | np.float32 | np.uint8] = np.float32

    @property
    def on_bytes(self) -> bool:
        """Whether the network input is made of resized bytes instead of normalised floats."""
        return self.arithmetic is np.uint8

    @property
    def input_dtype(self) -> type[np.float32 | np.uint8]:
        """The type of the values of a network input."""
        return np.uint8 if self.on_bytes else np.float32

    @property
    def padding(self) -> int:
        """The value of the pixels around the image in a network input."""
        return MEAN_BYTE if self.on_bytes else 0

    def scale(self, height: int, width: int) -> float:
        """Returns the factor from image pixels to input pixels, the same on both axes."""
        by_height = BASE_HEIGHT / height
        return by_height if self.fixed_width is None else min(by_height, self.fixed_width / width)

    def input_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns channels, height and width of the network input for an image."""
        _, resized_width = self.resized(height, width)
        return (3, *self.canvas(resized_width))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the resized image in input pixels, each at least 1."""
        scale = self.scale(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def canvas(self, resized_width: int) -> tuple[int, int]:
        """Returns height and width of the network input for the width of a resized image."""
        if self.fixed_width is not None:
            return BASE_HEIGHT, self.fixed_width
        width = max(resized_width, BASE_HEIGHT)
        return BASE_HEIGHT, -(-width // STRIDE) * STRIDE

    def geometry(self, height: int, width: int) -> Geometry:
        """Returns the position of an image in its network input.

        The image is centred. If the padding is odd, the smaller half is at the top and left.
        """
        resized_height, resized_width = self.resized(height, width)
        canvas_height, canvas_width = self.canvas(resized_width)
        top, left = (canvas_height - resized_height) // 2, (canvas_width - resized_width) // 2
        bottom, right = canvas_height - resized_height - top, canvas_width - resized_width - left
        return Geometry(height, width, top, left, bottom, right)

    @property
    def nominal_input(self) -> tuple[int, int]:
        """The height and width of a typical network input, for warm-up."""
        return self.canvas(self.fixed_width or 656)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "modelzoo": Profile("modelzoo", cv2.INTER_LINEAR, 640),
        "upstream": Profile("upstream", cv2.INTER_CUBIC, None, np.float64),
        "uint8": Profile("uint8", cv2.INTER_LINEAR, 640, np.uint8),
    }
)
