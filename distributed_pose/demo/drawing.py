"""Draws figures. Each body part is the convex hull of a few discs, painted in order of depth."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.demo.figures import HEAD_RADIUS, SIDES, Figure
from distributed_pose.demo.wardrobe import Colour, Outfit, shaded
from distributed_pose.keypoints.sets import KeypointSet

# The owner code of a pixel is OWNERS_PER_PERSON * (person + 1) + part. 0 is the background.
OWNERS_PER_PERSON = 32
OCCLUDER = -1
_PARTS = (
    *("torso", "neck", "head"),
    *(
        f"{side}_{part}"
        for side, _ in SIDES
        for part in ("arm", "forearm", "thigh", "shin", "foot")
    ),
)
_PART_CODES = {name: code for code, name in enumerate(_PARTS)}
# Each joint can lie on these body parts. Names are without the side; all others are of the face.
_CARRIERS = {
    "shoulder": ("torso", "arm"),
    "elbow": ("arm", "forearm"),
    "wrist": ("forearm",),
    "hip": ("torso", "thigh"),
    "knee": ("thigh", "shin"),
    "ankle": ("shin", "foot"),
    "hand": ("forearm",),
    "toe": ("foot",),
    "head": ("head",),
    "crown": ("head",),
    "nape": ("head", "neck"),
    "collar": ("neck", "torso"),
    "chest": ("torso",),
    "navel": ("torso",),
    "waist": ("torso",),
    "back": ("torso",),
}
_SHARED_PARTS = ("torso", "neck", "head")

# Radii and other lengths are in units of body height.
_SHOULDER_R, _HIP_R, _NECK_R = 0.045, 0.056, 0.034
_ARM_R, _ELBOW_R, _WRIST_R, _HAND_R = 0.038, 0.031, 0.025, 0.032
_THIGH_R, _KNEE_R, _ANKLE_R, _TOE_R = 0.055, 0.042, 0.031, 0.027
_OUTLINE = 0.006
_SUBPIXEL_BITS = 4
_CIRCLE_16x2 = np.stack(
    [np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)], axis=1
)

Disc = tuple[float, float, float]  # x, y, radius in image pixels


@dataclass(frozen=True)
class Canvas:
    """An image, and the visible body part of each of its pixels.

    Attributes:
        image_HW3: image, uint8 [H, W, 3], BGR.
        owners_HW: owner codes of the pixels, int16 [H, W].
    """

    image_HW3: npt.NDArray[np.uint8]
    owners_HW: npt.NDArray[np.int16]


@dataclass(frozen=True)
class _Part:
    name: str
    discs: tuple[Disc, ...]
    colour: Colour
    depth: float
    outlined: bool = True


def draw_figure(canvas: Canvas, figure: Figure, outfit: Outfit, person: int) -> None:
    """Paints a figure over the content of a canvas.

    Args:
        canvas: image and owner codes, which are changed in place.
        figure: figure to draw, in image pixels.
        outfit: clothes and colours of the figure.
        person: number of the person in the owner codes.
    """
    parts = [*_torso(figure, outfit), *_arms(figure, outfit), *_legs(figure, outfit)]
    parts += _head(figure, outfit)
    outline_px = max(1.0, _OUTLINE * figure.height_px)
    for part in sorted(parts, key=lambda part: part.depth):
        owner = OWNERS_PER_PERSON * (person + 1) + _PART_CODES[part.name]
        if part.outlined:
            rim = [(x, y, radius + outline_px) for x, y, radius in part.discs]
            _fill(canvas, rim, shaded(part.colour, 0.55), owner)
        _fill(canvas, part.discs, part.colour, owner)


def fill_discs(image_HW3: npt.NDArray[np.uint8], discs: list[Disc], colour: Colour) -> None:
    """Paints the convex hull of discs (in image pixels) on an image, in place."""
    cv2.fillConvexPoly(image_HW3, _hull(discs), colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def visible_keypoints(
    canvas: Canvas, figure: Figure, person: int, keypoints: KeypointSet
) -> npt.NDArray[np.float64]:
    """Returns the keypoints of a drawn figure: float64 [D, 3], x, y and COCO visibility.

    The frame is COCO's: image pixels, with the centre of the first pixel at (0.5, 0.5).

    Points of the face that the head itself hides and points outside of the image are not labelled
    (0, 0, 0). Points behind something else have visibility 1.

    Args:
        canvas: picture with the figure.
        figure: the drawn figure.
        person: number of the person in the owner codes.
        keypoints: keypoint set of the annotations; its D keypoints are joints of figures.
    """
    visible_Dx3 = np.zeros((keypoints.num_dataset_keypoints, 3))
    height, width = canvas.owners_HW.shape
    for index, name in enumerate(keypoints.dataset_keypoints):
        x, y, depth = figure.joint(name)
        inside = 0 <= x <= width - 1 and 0 <= y <= height - 1
        if inside and (
            _is_body(name) or depth > figure.joint("head")[2] + _turn_limit(figure, name)
        ):
            owner = int(canvas.owners_HW[round(y), round(x)])
            visibility = 2 if owner in _carriers(name, person) else 1
            visible_Dx3[index] = x + 0.5, y + 0.5, visibility
    return visible_Dx3


def _is_body(name: str) -> bool:
    return _sided(name)[1] in _CARRIERS


def _sided(name: str) -> tuple[str, str]:
    """Returns the side of a joint, empty in the middle of the body, and its name without it."""
    side, _, joint = name.rpartition("_")
    return side, joint


def _turn_limit(figure: Figure, name: str) -> float:
    """Returns the depth above which a point of the face is labelled.

    The depth is in pixels towards the viewer, measured from the centre of the head.
    """
    radii = -0.45 if name.endswith("ear") else 0.12
    return radii * HEAD_RADIUS * figure.height_px


def _carriers(name: str, person: int) -> set[int]:
    side, joint = _sided(name)
    parts = _CARRIERS.get(joint, ("head",))
    names = [part if part in _SHARED_PARTS else f"{side}_{part}" for part in parts]
    return {OWNERS_PER_PERSON * (person + 1) + _PART_CODES[part] for part in names}


def _fill(canvas: Canvas, discs: tuple[Disc, ...] | list[Disc], colour: Colour, owner: int) -> None:
    hull = _hull(discs)
    cv2.fillConvexPoly(canvas.image_HW3, hull, colour, cv2.LINE_AA, _SUBPIXEL_BITS)
    cv2.fillConvexPoly(canvas.owners_HW, hull, owner, cv2.LINE_8, _SUBPIXEL_BITS)


def _hull(discs: tuple[Disc, ...] | list[Disc]) -> npt.NDArray[np.int32]:
    circles = [_CIRCLE_16x2 * radius + (x, y) for x, y, radius in discs]
    points = np.concatenate(circles) * (1 << _SUBPIXEL_BITS)
    return np.asarray(cv2.convexHull(np.round(points).astype(np.int32)), np.int32)


def _discs(figure: Figure, *joints: tuple[str, float]) -> tuple[Disc, ...]:
    """Returns discs in image pixels at joints, from radii in body heights."""
    positions = [(figure.joint(name), radius * figure.height_px) for name, radius in joints]
    return tuple((float(at[0]), float(at[1]), radius) for at, radius in positions)


def _depth(figure: Figure, *names: str) -> float:
    return float(np.mean([figure.joint(name)[2] for name in names]))


def _torso(figure: Figure, outfit: Outfit) -> Iterator[_Part]:
    corners = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    depth = _depth(figure, *corners)
    shirt = [(name, _SHOULDER_R) for name in corners[:2]] + [(name, _HIP_R) for name in corners[2:]]
    neck = _discs(figure, ("collar", _NECK_R), ("head", _NECK_R))
    yield _Part("neck", neck, outfit.skin, depth - 0.02 * figure.height_px)
    yield _Part("torso", _discs(figure, *shirt), outfit.shirt, depth)
    belt = _discs(figure, ("left_hip", _HIP_R), ("right_hip", _HIP_R))
    yield _Part("torso", belt, outfit.trousers, depth + 1e-3)
    decorations = _front(figure, outfit) if figure.facing() > 0 else _back(figure, outfit)
    for order, (discs, colour) in enumerate(decorations):
        yield _Part("torso", discs, colour, depth + 1e-3 * (order + 2), outlined=False)


def _front(figure: Figure, outfit: Outfit) -> Iterator[tuple[tuple[Disc, ...], Colour]]:
    yield _discs(figure, ("collar", 0.032), ("chest", 0.004)), outfit.skin
    if outfit.print == "buttons":
        yield _discs(figure, ("chest", 0.005), ("navel", 0.005)), outfit.trim
    if outfit.print == "badge":
        yield _discs(figure, ("chest", 0.028)), outfit.trim
    if outfit.print == "stripes":
        yield _discs(figure, ("navel", 0.035)), outfit.trim
    yield _discs(figure, ("waist", 0.014)), (60, 200, 230)


def _back(figure: Figure, outfit: Outfit) -> Iterator[tuple[tuple[Disc, ...], Colour]]:
    if outfit.backpack:
        pack = _discs(figure, ("back", 0.085), ("waist", 0.05))
        yield pack, shaded(outfit.trousers, 0.6)
        yield _discs(figure, ("back", 0.068), ("waist", 0.034)), outfit.trousers
    elif outfit.print == "stripes":
        yield _discs(figure, ("left_shoulder", 0.008), ("right_shoulder", 0.008)), outfit.trim


def _arms(figure: Figure, outfit: Outfit) -> Iterator[_Part]:
    lift = 0.01 * figure.height_px
    for side, _ in SIDES:
        shoulder, elbow, wrist = f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist"
        upper = _discs(figure, (shoulder, _ARM_R), (elbow, _ELBOW_R))
        upper_depth = _depth(figure, shoulder, elbow) + lift
        yield _Part(f"{side}_arm", upper, outfit.shirt, upper_depth)
        depth = max(_depth(figure, elbow, wrist), upper_depth - lift) + lift / 2
        hand = _discs(figure, (wrist, _HAND_R * 0.7), (f"{side}_hand", _HAND_R))
        yield _Part(f"{side}_forearm", hand, outfit.skin, depth)
        sleeve = outfit.shirt if outfit.long_sleeves else outfit.skin
        lower = _discs(figure, (elbow, _ELBOW_R), (wrist, _WRIST_R))
        yield _Part(f"{side}_forearm", lower, sleeve, depth + 1e-3)


def _legs(figure: Figure, outfit: Outfit) -> Iterator[_Part]:
    sink = 0.03 * figure.height_px
    for side, _ in SIDES:
        hip, knee, ankle = f"{side}_hip", f"{side}_knee", f"{side}_ankle"
        depth = min(_depth(figure, hip, knee), _depth(figure, hip) + sink) - sink / 2
        thigh = _discs(figure, (hip, _THIGH_R), (knee, _KNEE_R))
        yield _Part(f"{side}_thigh", thigh, outfit.trousers, depth)
        shin = _discs(figure, (knee, _KNEE_R * 0.92), (ankle, _ANKLE_R))
        cloth = outfit.trousers if outfit.long_trousers else outfit.skin
        order = 1e-3 if _depth(figure, ankle) >= _depth(figure, knee) - 2 * sink else -1e-3
        yield _Part(f"{side}_shin", shin, cloth, depth + order)
        foot = _discs(figure, (ankle, _TOE_R), (f"{side}_toe", _TOE_R))
        yield _Part(f"{side}_foot", foot, outfit.shoes, depth + 2 * order)


def _head(figure: Figure, outfit: Outfit) -> Iterator[_Part]:
    depth = _depth(figure, "head") + 0.02 * figure.height_px
    layers = [*_hair_and_face(figure, outfit), *_features(figure, outfit)]
    for order, (discs, colour, outlined) in enumerate(layers):
        yield _Part("head", discs, colour, depth + 1e-3 * order, outlined)


_Layer = tuple[tuple[Disc, ...], Colour, bool]


def _hair_and_face(figure: Figure, outfit: Outfit) -> Iterator[_Layer]:
    x, y, _ = figure.joint("head")
    radius = HEAD_RADIUS * figure.height_px
    turn = np.radians(figure.head_yaw)
    aside, towards = float(np.sin(turn)), float(np.cos(turn))
    hair: tuple[Disc, ...] = ((x - 0.14 * aside * radius, y - 0.08 * radius, 1.06 * radius),)
    if outfit.long_hair:
        nape_x, nape_y, _ = figure.joint("nape")
        hair += ((nape_x, nape_y + 0.7 * radius, 0.62 * radius),)
    face_y = y + 0.1 * radius
    face: tuple[Disc, ...] = ((x + 0.22 * aside * radius, face_y, 0.84 * radius),)
    face += ((x + 0.24 * aside * radius, face_y + 0.28 * radius, 0.66 * radius),)
    layers: list[_Layer] = [(hair, outfit.hair, True), (face, outfit.skin, False)]
    yield from layers if towards > -0.35 else reversed(layers)


def _features(figure: Figure, outfit: Outfit) -> Iterator[_Layer]:
    centre = figure.joint("head")[2]
    for side, _ in SIDES:
        if figure.joint(f"{side}_ear")[2] > centre + _turn_limit(figure, "ear"):
            yield _discs(figure, (f"{side}_ear", 0.021)), outfit.skin, True
    for side, _ in SIDES:
        if figure.joint(f"{side}_eye")[2] > centre + _turn_limit(figure, "eye"):
            yield _discs(figure, (f"{side}_eye", 0.018)), (250, 250, 250), False
            yield _discs(figure, (f"{side}_eye", 0.0105)), (35, 25, 20), False
    if figure.joint("nose")[2] > centre + _turn_limit(figure, "nose"):
        yield _discs(figure, ("nose", 0.016)), shaded(outfit.skin, 0.78), False
        yield _discs(figure, ("mouth", 0.014)), (70, 60, 170), False
