"""Images, their network inputs, and what may be wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

# Side of a cell of heatmaps and PAFs in input pixels.
STRIDE = 8


# A network takes `(byte - MEAN_BYTE) / BYTE_RANGE` of each pixel's channels.
MEAN_BYTE, BYTE_RANGE = 128, 256


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of the dataset, as its annotation file describes it; sizes in pixels."""

    image_id: int
    file_name: str
    height: int
    width: int


class InputSize(NamedTuple):
    """The size of a network input in pixels; its text is `HEIGHTxWIDTH`, such as `368x640`."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the size that a text of two numbers names.

        Raises:
            ValueError: if the text is not of this form.
        """
        height, width = text.split("x")
        return cls(int(height), int(width))


def scales_note(scales: Sequence[float]) -> str:
    """Returns scale factors as the end of a phrase, such as ` in scales 0.5 and 1`; empty for 1."""
    if tuple(scales) == (1.0,):
        return ""
    *most, last = (f"{scale:g}" for scale in scales)
    return f" in scales {', '.join(most)} and {last}" if most else f" in scale {last}"


@dataclass(frozen=True)
class Geometry:
    """How an image lies in its network input: resized, then padded; all in pixels.

    Padding is in input pixels, height and width are those of the original image.
    """

    image_height: int
    image_width: int
    pad_top: int
    pad_left: int
    pad_bottom: int
    pad_right: int


@dataclass(frozen=True)
class Failure:
    """An image that has no result, and why."""

    image_id: int
    file_name: str
    reason: str


@dataclass(frozen=True)
class Damage:
    """An image whose file is damaged and was evaluated all the same, and what its decoder says."""

    image_id: int
    file_name: str
    reason: str
