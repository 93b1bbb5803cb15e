"""Samples articulated figures: poses in space, seen by a camera, as joints in image pixels.

Body frame: x to the person's left, y up, z forward, origin between the hips, unit the height of a
standing person. Camera frame: x right, y down, depth towards the viewer; yaw 0 faces the viewer
and yaw 90 degrees faces the right edge of the image. Angles in this file are degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from distributed_pose.errors import ConfigError
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet

Floats = npt.NDArray[np.float64]
_T = TypeVar("_T")
_Ranges = tuple[tuple[float, float], ...]

# Clothes and the head are drawn at these points, which are not COCO keypoints.
_EXTRA_JOINTS = (
    *("head", "mouth", "crown", "nape", "collar", "chest", "navel", "waist", "back"),
    *("left_hand", "right_hand", "left_toe", "right_toe"),
)
JOINTS = (*coco_body().dataset_keypoints, *_EXTRA_JOINTS)
JOINT_INDEX = {name: index for index, name in enumerate(JOINTS)}
SIDES = (("left", 1.0), ("right", -1.0))

HEAD_RADIUS = 0.088
_SHOULDER_X, _SHOULDER_Y = 0.118, 0.30
_HIP_X = 0.068
_UPPER_ARM, _FOREARM, _HAND = 0.165, 0.15, 0.03
_THIGH, _SHIN, _FOOT = 0.235, 0.225, 0.085
_HEAD_Y = 0.425
_CAMERA_PITCH = 12.0

# Points of the head have azimuth (towards the person's left), elevation and distance in head radii.
_HEAD_POINTS = {
    "nose": (0, -6, 1.1),
    "left_eye": (27, 10, 1.0),
    "right_eye": (-27, 10, 1.0),
    "left_ear": (88, 0, 1.02),
    "right_ear": (-88, 0, 1.02),
    "mouth": (0, -36, 1.0),
    "crown": (0, 90, 1.0),
    "nape": (180, -20, 1.0),
}
_TORSO_POINTS = {
    "collar": (0.0, _SHOULDER_Y + 0.025, 0.03),
    "chest": (0.0, 0.21, 0.06),
    "navel": (0.0, 0.07, 0.06),
    "waist": (0.0, 0.02, 0.055),
    "back": (0.0, 0.21, -0.07),
}

# Each pose of an arm has a weight, and the ranges of upper arm abduction, upper arm flexion,
# forearm abduction and forearm flexion.
_ARM_POSES: tuple[tuple[float, _Ranges], ...] = (
    (0.45, ((8, 30), (-20, 25), (0, 28), (0, 50))),
    (0.10, ((42, 60), (-12, 8), (-52, -32), (5, 25))),
    (0.15, ((110, 165), (-10, 10), (115, 185), (-10, 20))),
    (0.14, ((60, 100), (-10, 10), (40, 165), (-10, 20))),
    (0.16, ((12, 35), (5, 45), (-25, 25), (60, 125))),
)
# Each pose of the legs has a weight, and the ranges of abduction, thigh flexion and knee bend, for
# the leg in front and for the other leg.
_LEG_POSES: tuple[tuple[float, tuple[_Ranges, _Ranges]], ...] = (
    (0.58, (((3, 12), (-6, 8), (0, 8)), ((3, 12), (-6, 8), (0, 8)))),
    (0.20, (((2, 8), (12, 35), (2, 25)), ((2, 8), (-28, -8), (5, 40)))),
    (0.14, (((14, 32), (-5, 10), (0, 12)), ((5, 30), (-5, 10), (0, 20)))),
    (0.08, (((8, 30), (50, 85), (60, 95)), ((8, 30), (50, 85), (60, 95)))),
)
# People face the viewer, away, or to either side. Each direction has a weight, and the mean and the
# spread of the yaw.
_FACINGS = ((0.60, 0.0, 24.0), (0.20, 180.0, 20.0), (0.10, 90.0, 14.0), (0.10, -90.0, 14.0))


@dataclass(frozen=True)
class Figure:
    """A posed person in the image.

    Attributes:
        joints_Jx3: float64 [J, 3], x and y in image pixels and depth towards the viewer in pixels,
            in the order of `JOINTS`.
        height_px: height of the person when standing upright, in image pixels.
        yaw: direction of the chest, in degrees.
        head_yaw: direction of the face, in degrees.
    """

    joints_Jx3: Floats
    height_px: float
    yaw: float
    head_yaw: float

    def joint(self, name: str) -> Floats:
        """Returns x, y and depth of one joint, in pixels."""
        position: Floats = self.joints_Jx3[JOINT_INDEX[name]]
        return position

    def moved(self, x_px: float, y_px: float) -> "Figure":
        """Returns the figure shifted by image pixels."""
        joints_Jx3 = self.joints_Jx3 + np.array([x_px, y_px, 0.0])
        return Figure(joints_Jx3, self.height_px, self.yaw, self.head_yaw)

    def facing(self) -> float:
        """Returns 1 for a chest turned to the viewer, 0 in profile and -1 from behind."""
        return float(np.cos(np.radians(self.yaw)))


def check_joints(keypoints: KeypointSet) -> None:
    """Checks that figures have the keypoints of a dataset.

    Raises:
        ConfigError: if they do not; names the keypoint and the joints of figures.
    """
    for name in keypoints.dataset_keypoints:
        if name not in JOINT_INDEX:
            raise ConfigError(
                f"keypoint set {keypoints.name}: rendered people have no {name}",
                f"name joints of theirs: {', '.join(JOINTS)}",
            )


def sample_figure(generator: np.random.Generator, height_px: float) -> Figure:
    """Returns a figure in a random pose, with the middle of its hips at the image's origin.

    Args:
        generator: source of randomness.
        height_px: height of the person when standing upright, in image pixels.
    """
    yaw = _sample_yaw(generator)
    head_turn = float(np.clip(generator.normal(0, 14), -35, 35))
    body_Jx3 = _body_joints(generator, head_turn)
    roll = (
        float(generator.normal(0, 5)) if generator.random() < 0.85 else generator.uniform(-30, 30)
    )
    joints_Jx3 = _project(body_Jx3, yaw, roll) * height_px
    return Figure(joints_Jx3, height_px, yaw, yaw + head_turn)


def _sample_yaw(generator: np.random.Generator) -> float:
    weights = [facing[0] for facing in _FACINGS]
    _, mean, spread = _FACINGS[int(generator.choice(len(_FACINGS), p=weights))]
    return mean + spread * float(np.clip(generator.normal(), -2, 2))


def _body_joints(generator: np.random.Generator, head_turn: float) -> Floats:
    upper = _head(generator, head_turn) | dict(_TORSO_POINTS)
    upper |= _arms(generator)
    lean = _rotation_x(generator.uniform(-3, 14)) @ _rotation_z(generator.normal(0, 5))
    joints = {name: lean @ np.asarray(point) for name, point in upper.items()}
    joints |= _legs(generator)
    return np.stack([joints[name] for name in JOINTS])


def _head(generator: np.random.Generator, head_turn: float) -> dict[str, Floats]:
    centre = np.array([0.0, _HEAD_Y, 0.02])
    tilt = _rotation_z(generator.normal(0, 7)) @ _rotation_x(generator.normal(3, 6))
    points = {"head": centre}
    for name, (azimuth, elevation, radii) in _HEAD_POINTS.items():
        across, up = np.radians(azimuth + head_turn), np.radians(elevation)
        direction = (np.sin(across) * np.cos(up), 1.1 * np.sin(up), np.cos(across) * np.cos(up))
        points[name] = centre + tilt @ (HEAD_RADIUS * radii * np.asarray(direction))
    return points


def _arms(generator: np.random.Generator) -> dict[str, Floats]:
    poses = [_choose(generator, _ARM_POSES)] * 2
    if generator.random() < 0.4:
        poses[1] = _choose(generator, _ARM_POSES)
    joints = {}
    for (name, side), ranges in zip(SIDES, poses, strict=True):
        upper_out, upper_up, lower_out, lower_up = (generator.uniform(*limits) for limits in ranges)
        shoulder = np.array([side * _SHOULDER_X, _SHOULDER_Y, 0.0])
        elbow = shoulder + _UPPER_ARM * _limb(side, upper_out, upper_up)
        forearm = _limb(side, lower_out, lower_up)
        joints[f"{name}_shoulder"], joints[f"{name}_elbow"] = shoulder, elbow
        joints[f"{name}_wrist"] = elbow + _FOREARM * forearm
        joints[f"{name}_hand"] = elbow + (_FOREARM + _HAND) * forearm
    return joints


def _legs(generator: np.random.Generator) -> dict[str, Floats]:
    pose = list(_choose(generator, _LEG_POSES))
    if generator.random() < 0.5:
        pose.reverse()
    joints = {}
    for (name, side), ranges in zip(SIDES, pose, strict=True):
        out, flexion, bend = (generator.uniform(*limits) for limits in ranges)
        hip = np.array([side * _HIP_X, 0.0, 0.0])
        knee = hip + _THIGH * _limb(side, out, flexion)
        ankle = knee + _SHIN * _limb(side, out * 0.7, flexion - bend)
        joints[f"{name}_hip"], joints[f"{name}_knee"] = hip, knee
        joints[f"{name}_ankle"] = ankle
        joints[f"{name}_toe"] = ankle + _FOOT * np.array([0.35 * side, -0.25, 0.9])
    return joints


def _choose(generator: np.random.Generator, weighted: Sequence[tuple[float, _T]]) -> _T:
    weights = [weight for weight, _ in weighted]
    return weighted[int(generator.choice(len(weighted), p=weights))][1]


def _limb(side: float, abduction: float, flexion: float) -> Floats:
    """Returns the unit vector of a limb in the body frame; it hangs down if both angles are 0."""
    out, forward = np.radians(abduction), np.radians(flexion)
    down = np.cos(out)
    return np.array([side * np.sin(out), -down * np.cos(forward), down * np.sin(forward)])


def _project(body_Jx3: Floats, yaw: float, roll: float) -> Floats:
    turn, pitch, tilt = np.radians([yaw, _CAMERA_PITCH, roll])
    x, y, z = body_Jx3.T
    right, towards = x * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - x * np.sin(turn)
    down = -y * np.cos(pitch) + towards * np.sin(pitch)
    depth = towards * np.cos(pitch) + y * np.sin(pitch)
    rolled_x = right * np.cos(tilt) - down * np.sin(tilt)
    return np.stack([rolled_x, right * np.sin(tilt) + down * np.cos(tilt), depth], axis=1)


def _rotation_x(degrees: float) -> Floats:
    """Returns the rotation that tips the upwards direction forward."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _rotation_z(degrees: float) -> Floats:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
