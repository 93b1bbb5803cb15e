"""What pictures draw of a keypoint set: its lines, their colours, and a legend of their names."""

import colorsys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_LEFT, _RIGHT = "left_", "right_"

# Of two neighbours in the circle of hues one is darker, so that a hundred can be told apart.
_DARKER = 0.7

# A legend of a hundred lines fits a tile of a sheet.
_ROWS, _ROW_PX, _MARGIN_PX, _SAMPLE_PX = 18, 20, 6, 20
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
_WHITE = (255, 255, 255)


class Line(NamedTuple):
    """A line of a person in a picture.

    Attributes:
        start: positions of dataset keypoints whose midpoint is the start of the line.
        end: positions of those whose midpoint is its end.
        name: name of the line in the legend.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    name: str


@cache
def skeleton(keypoints: KeypointSet) -> tuple[Line, ...]:
    """Returns the lines of people in pictures.

    These are the limbs, without those that fill, which clutter a picture. In place of the limbs of
    a midpoint of left and right, such as the neck, the outline of the body is drawn.
    """
    limbs = [limb for limb in keypoints.limbs if not limb.fills]
    names = [(keypoints.keypoints[limb.start], keypoints.keypoints[limb.end]) for limb in limbs]
    outlined = [name for name, _ in keypoints.derived if len(_sides(keypoints, name)) > 1]
    lines = [_line(keypoints, *ends) for ends in names if not {*outlined} & {*ends}]
    lines += [line for name in outlined for line in _outline(keypoints, name, names)]
    # Two midpoints that a limb connects have the same lines at its sides.
    unique: dict[frozenset[tuple[int, ...]], Line] = {}
    for line in lines:
        unique.setdefault(frozenset((line.start, line.end)), line)
    return tuple(unique.values())


def limb_colours(keypoints: KeypointSet) -> tuple[Colour, ...]:
    """Returns a colour (blue, green, red) per line of the skeleton; none for the body of COCO.

    The body of COCO is so well known that its people have colours instead of its limbs.
    """
    if keypoints == coco_body():
        return ()
    number = len(skeleton(keypoints))
    return tuple(_hue(index / number, _DARKER if index % 2 else 1.0) for index in range(number))


def draw_legend(keypoints: KeypointSet) -> Image:
    """Returns a picture with the colour and the name of each line."""
    named = [*zip(skeleton(keypoints), limb_colours(keypoints), strict=True)]
    columns = -(-len(named) // _ROWS)
    text_px = max(cv2.getTextSize(line.name, _FONT, _FONT_SCALE, 1)[0][0] for line, _ in named)
    column_px = text_px + _SAMPLE_PX + 3 * _MARGIN_PX
    legend_HW3 = np.zeros((_ROW_PX * _ROWS, column_px * columns, 3), np.uint8)
    for index, (line, colour) in enumerate(named):
        column, row = divmod(index, _ROWS)
        x, y = column_px * column + _MARGIN_PX, _ROW_PX * (row + 1) - _MARGIN_PX
        middle = y - _MARGIN_PX + 1
        cv2.line(legend_HW3, (x, middle), (x + _SAMPLE_PX, middle), colour, 4, cv2.LINE_AA)
        place = x + _SAMPLE_PX + _MARGIN_PX, y
        cv2.putText(legend_HW3, line.name, place, _FONT, _FONT_SCALE, _WHITE, 1, cv2.LINE_AA)
    return legend_HW3


def _line(keypoints: KeypointSet, start: str, end: str) -> Line:
    return Line(_positions(keypoints, start), _positions(keypoints, end), f"{start} to {end}")


def _outline(keypoints: KeypointSet, name: str, limbs: list[tuple[str, str]]) -> Iterator[Line]:
    """Yields the lines around a midpoint of left and right: to each side, and across."""
    own = _sides(keypoints, name)
    yield _line(keypoints, own[_LEFT], own[_RIGHT])
    others = [b if a == name else a for a, b in limbs if name in {a, b}]
    ends = [
        (side, end)
        for side in (_LEFT, _RIGHT)
        for other in others
        if (end := _sides(keypoints, other).get(side)) and end != own[side]
    ]
    for side, end in ends:
        yield _line(keypoints, own[side], end)
    left = [end.removeprefix(_LEFT) for side, end in ends if side == _LEFT and end in others]
    for side, end in ends:
        if side == _RIGHT and end.removeprefix(_RIGHT) in left:
            yield _line(keypoints, _LEFT + end.removeprefix(_RIGHT), end)


def _sides(keypoints: KeypointSet, name: str) -> Mapping[str, str]:
    """Returns the names of the keypoints that a keypoint stands for, by side; not all have one."""
    sources = dict(keypoints.derived).get(name, (name,))
    sided = {side: one for one in sources for side in (_LEFT, _RIGHT) if one.startswith(side)}
    return sided if len(sided) == len(sources) else {}


def _positions(keypoints: KeypointSet, name: str) -> tuple[int, ...]:
    sources = dict(keypoints.derived).get(name, (name,))
    return tuple(keypoints.dataset_keypoints.index(source) for source in sources)


def _hue(share: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(share, 1.0, value))
    return blue, green, red
