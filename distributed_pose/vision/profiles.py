"""Defines the preprocessing profiles, which scale and pad an image into a network input.

An accuracy figure depends on the profile, so every report names it.

Source: `modelzoo` follows the vendor's offline-inference guide (fixed shape, as NPUs run it).
`upstream` follows the validation script (val.py) of the reference implementation, which normalises
and resizes in double because NumPy promotes its float32 image at the subtraction of the mean.
`uint8` is `modelzoo` with the image kept in bytes up to the network, which then normalises by
itself, as NPUs with AIPP do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

import cv2
import numpy as np

from distributed_pose.records.images import MEAN_BYTE, STRIDE, Geometry, InputSize

# The shape of a typical image, for which an input that follows the image is warmed up.
_TYPICAL_ASPECT = 16 / 9


@dataclass(frozen=True)
class Profile:
    """A preprocessing profile: scale, canvas and arithmetic. Sizes are in input pixels.

    Attributes:
        name: name of the profile in configurations and reports.
        interpolation: OpenCV's constant for the interpolation of the resize.
        size: size of the canvas, whose height and width are multiples of 8.
        is_fixed: whether every input has that size. Otherwise the height of the image becomes that
            of `size`, and the canvas is as wide as the image, with the width of `size` as a least.
        arithmetic: type that the image is normalised and resized in; uint8 for bytes that are
            resized and passed to the network without normalisation.
        scale_factor: factor by which the image is larger than its canvas asks for, where the canvas
            follows the image. The canvas keeps `size` as its least size.
    """

    name: str
    interpolation: int
    size: InputSize
    is_fixed: bool = True
    arithmetic: type[np.float64 | np.float32 | np.uint8] = np.float32
    scale_factor: float = 1.0

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
        # In this order, because the reference implementation rounds so.
        by_height = self.scale_factor * self.size.height / height
        return min(by_height, self.size.width / width) if self.is_fixed else by_height

    def input_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns channels, height and width of the network input for an image."""
        return (3, *self.canvas(*self.resized(height, width)))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the resized image in input pixels, each at least 1."""
        scale = self.scale(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def canvas(self, resized_height: int, resized_width: int) -> tuple[int, int]:
        """Returns height and width of the network input for a resized image.

        A height above that of `size` is that of the image, which need not be a multiple of 8: the
        reference implementation does not pad it.
        """
        if self.is_fixed:
            return self.size
        width = max(resized_width, self.size.width)
        return max(resized_height, self.size.height), -(-width // STRIDE) * STRIDE

    def geometry(self, height: int, width: int) -> Geometry:
        """Returns the position of an image in its network input.

        The image is centred. If the padding is odd, the smaller half is at the top and left.
        """
        resized_height, resized_width = self.resized(height, width)
        canvas_height, canvas_width = self.canvas(resized_height, resized_width)
        top, left = (canvas_height - resized_height) // 2, (canvas_width - resized_width) // 2
        bottom, right = canvas_height - resized_height - top, canvas_width - resized_width - left
        return Geometry(height, width, top, left, bottom, right)

    @property
    def nominal_input(self) -> tuple[int, int]:
        """The height and width of a typical network input, for warm-up."""
        height = self.scale_factor * self.size.height
        return self.canvas(round(height), round(height * _TYPICAL_ASPECT))

    def sized(self, size: InputSize | None) -> Self:
        """Returns the profile for inputs of another size; the same for None."""
        return replace(self, size=size) if size else self

    def at_scales(self, scales: Sequence[float]) -> tuple[Self, ...]:
        """Returns the profile for each scale factor; only canvases that follow the image scale."""
        return tuple(replace(self, scale_factor=factor) for factor in scales)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "modelzoo": Profile("modelzoo", cv2.INTER_LINEAR, InputSize(368, 640)),
        "upstream": Profile(
            "upstream", cv2.INTER_CUBIC, InputSize(368, 368), is_fixed=False, arithmetic=np.float64
        ),
        "uint8": Profile("uint8", cv2.INTER_LINEAR, InputSize(368, 640), arithmetic=np.uint8),
    }
)
