"""The reference decoder: dense maps and loops over them, as in the reference implementation.

The compiled decoder must equal it. Its own detections equal those of the reference files.

Source: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields",
arXiv:1611.08050, with the thresholds and the order of steps of Lightweight OpenPose's validation.

Array legend: K heatmaps, P first PAF channels and then people, C channels of either, H and W map
size in cells, h and w image size in pixels, M candidates of a keypoint, A and B candidates of a
limb's two keypoints, S sample points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.assemble import Poses
from distributed_pose.pose.limits import (
    MAX_CANDIDATES,
    MAX_PAIRS,
    too_many_candidates,
    too_many_pairs,
)
from distributed_pose.records.images import STRIDE, Geometry

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

THRESHOLD = 0.1
SUPPRESSION_RADIUS_PX = 6.0

NUM_SAMPLES = 10
MIN_PROJECTION = 0.05
MIN_SUCCESS_RATIO = 0.8

# The largest number of channels that OpenCV leaves to IPP.
_IPP_CHANNELS = 4

# OpenCV 5 resizes at most 128 channels at once.
_CHANNELS_AT_ONCE = 64

MIN_KEYPOINTS = 3
MIN_MEAN_SCORE = 0.2


@dataclass(frozen=True)
class Candidates:
    """Candidates for one keypoint, sorted by x, then y.

    Attributes:
        xy_M2: float32 [M, 2], whole image pixels.
        scores_M: float32 [M], heatmap values.
    """

    xy_M2: Floats
    scores_M: Floats

    def __len__(self) -> int:
        return len(self.scores_M)


class Limb(NamedTuple):
    """Two candidates joined: their indices among their keypoints' candidates, and the score."""

    a: int
    b: int
    score: float


@dataclass
class _Person:
    """Candidate index by keypoint. Limbs that fill in keypoints leave count and score."""

    members: dict[int, int]
    score: float
    count: int = 2


def reference_decode(
    heatmaps_KHW: Floats, pafs_PHW: Floats, geometry: Geometry, keypoints: KeypointSet
) -> Poses:
    """Returns the poses in one image, in image pixels.

    Args:
        heatmaps_KHW: float32 [K, H, W], last stage, background last.
        pafs_PHW: float32 [P, H, W], last stage.
        geometry: how the image lies in the network input of 8H x 8W pixels.
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.

    Raises:
        NoPoseMapsError: if there are more candidates than `limits` allow, which are not the
            reference implementation's.
    """
    return reference_decode_scales([(heatmaps_KHW, pafs_PHW, geometry)], keypoints)


def reference_decode_scales(
    scales: Sequence[tuple[Floats, Floats, Geometry]], keypoints: KeypointSet
) -> Poses:
    """Returns the poses in one image whose maps were computed at several scales.

    Args:
        scales: heatmaps, PAFs and geometry per scale; see `reference_decode`.
        keypoints: see `reference_decode`.

    Raises:
        NoPoseMapsError: see `reference_decode`.
    """
    heatmaps_hwK = _mean([full_resolution(maps, geometry) for maps, _, geometry in scales])
    pafs_hwP = _mean([full_resolution(maps, geometry) for _, maps, geometry in scales])
    candidates = []
    for channel, name in enumerate(keypoints.keypoints):
        candidates.append(find_peaks(heatmaps_hwK[:, :, channel]))
        if len(candidates[-1]) > MAX_CANDIDATES:
            raise too_many_candidates(name)
    pairs = sum(len(candidates[a]) * len(candidates[b]) for a, b, *_ in keypoints.limbs)
    if pairs > MAX_PAIRS:
        raise too_many_pairs(pairs)
    limbs = [
        find_limbs(pafs_hwP[:, :, (x, y)], candidates[a], candidates[b])
        for a, b, x, y, _ in keypoints.limbs
    ]
    return assemble(candidates, limbs, keypoints)


def full_resolution(maps_CHW: Floats, geometry: Geometry) -> Floats:
    """Returns float32 [h, w, C]: maps enlarged to the input, cropped, then resized to the image.

    Two cubic resizes in a row are not one: the reference does both, and peaks depend on it. The
    rounding of OpenCV's last column depends on the number of channels modulo 4, so channels are
    resized in groups of a multiple of 4, and the last group has the rest.
    """
    # The last group is larger than what IPP takes.
    starts = [*range(0, max(1, len(maps_CHW) - _IPP_CHANNELS), _CHANNELS_AT_ONCE)]
    groups = np.split(maps_CHW, starts[1:])
    return np.concatenate([_resized(group_CHW, geometry) for group_CHW in groups], axis=2)


def _resized(maps_CHW: Floats, geometry: Geometry) -> Floats:
    """Returns a group of maps at full resolution, at most 68 of them.

    OpenCV resizes 1, 3 or 4 channels with IPP where it has it, whose last bits differ. Four empty
    channels before the others avoid that.
    """
    empty = _IPP_CHANNELS if len(maps_CHW) <= _IPP_CHANNELS else 0
    maps_HWC = np.pad(maps_CHW.transpose(1, 2, 0).astype(np.float32), ((0, 0), (0, 0), (empty, 0)))
    enlarged = cv2.resize(maps_HWC, None, fx=STRIDE, fy=STRIDE, interpolation=cv2.INTER_CUBIC)
    height, width = enlarged.shape[:2]
    cropped = enlarged[
        geometry.pad_top : height - geometry.pad_bottom,
        geometry.pad_left : width - geometry.pad_right,
    ]
    size = (geometry.image_width, geometry.image_height)
    pixels_hwC = cv2.resize(cropped, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(pixels_hwC, np.float32)[:, :, empty:]


def _mean(maps_hwC: Sequence[Floats]) -> Floats:
    """Returns the mean of maps, in the order of the reference implementation's sums."""
    mean_hwC = np.zeros_like(maps_hwC[0])
    for one_hwC in maps_hwC:
        mean_hwC += one_hwC / np.float32(len(maps_hwC))
    return mean_hwC


def find_peaks(heatmap_hw: Floats) -> Candidates:
    """Returns the local maxima of a heatmap at image resolution.

    A peak is at least `THRESHOLD` and strictly greater than its four neighbours, where what lies
    below the threshold or outside the image counts as 0. Of two peaks nearer than
    `SUPPRESSION_RADIUS_PX` the one further right goes, whatever the scores.
    """
    y_M, x_M = np.nonzero(_is_peak(heatmap_hw))
    order = np.argsort(x_M, kind="stable")
    xy_M2 = np.stack((x_M[order], y_M[order]), axis=1).astype(np.float32)
    xy_M2 = xy_M2[_kept(xy_M2)]
    scores_M = heatmap_hw[xy_M2[:, 1].astype(np.intp), xy_M2[:, 0].astype(np.intp)]
    return Candidates(xy_M2, scores_M)


def _is_peak(heatmap_hw: Floats) -> npt.NDArray[np.bool_]:
    padded = np.pad(np.where(heatmap_hw < THRESHOLD, np.float32(0), heatmap_hw), 1)
    center = padded[1:-1, 1:-1]
    return np.asarray(
        (center > padded[1:-1, 2:])
        & (center > padded[1:-1, :-2])
        & (center > padded[2:, 1:-1])
        & (center > padded[:-2, 1:-1])
    )


def _kept(xy_M2: Floats) -> list[int]:
    kept: list[int] = []
    for index, point in enumerate(xy_M2):
        if len(kept) > MAX_CANDIDATES:
            break
        distances = np.hypot(*(xy_M2[kept] - point).T)
        if not np.any(distances < SUPPRESSION_RADIUS_PX):
            kept.append(index)
    return kept


def find_limbs(paf_hw2: Floats, a: Candidates, b: Candidates) -> list[Limb]:
    """Returns the limbs of one kind, best first, each candidate used at most once.

    Args:
        paf_hw2: float32 [h, w, 2], x and y channel at image resolution.
        a: candidates of the limb's first keypoint.
        b: candidates of its second.
    """
    if not len(a) or not len(b):
        return []
    scores_BA, success_BA = _score(paf_hw2, a.xy_M2, b.xy_M2)
    b_index, a_index = np.nonzero((scores_BA > 0) & (success_BA > MIN_SUCCESS_RATIO))
    scores = scores_BA[b_index, a_index]
    limbs: list[Limb] = []
    # Of equal scores the later pair comes first, as in the reference's reversed ascending sort.
    for index in np.argsort(scores, kind="stable")[::-1]:
        limb = Limb(int(a_index[index]), int(b_index[index]), float(scores[index]))
        if all(limb.a != other.a and limb.b != other.b for other in limbs):
            limbs.append(limb)
    return limbs


def _score(paf_hw2: Floats, a_A2: Floats, b_B2: Floats) -> tuple[Doubles, Doubles]:
    """Returns mean projection of the counting samples and their share, each [B, A]."""
    vector_BA2 = b_B2[:, None] - a_A2[None]
    steps_S = np.arange(NUM_SAMPLES, dtype=np.float32)[:, None]
    step_BA12 = vector_BA2[:, :, None] * np.float32(1 / (NUM_SAMPLES - 1))
    points_BAS2 = (step_BA12 * steps_S + a_A2[None, :, None]).round().astype(np.intp)
    # The small constants are the reference's guards against a division by zero.
    norm_BA1 = np.linalg.norm(vector_BA2, axis=-1, keepdims=True)
    unit_BA12 = (vector_BA2 / (norm_BA1 + np.float32(1e-6)))[:, :, None]
    field_BAS2 = paf_hw2[points_BAS2[..., 1], points_BAS2[..., 0]]
    projection_BAS = (field_BAS2 * unit_BA12).sum(-1)
    counts_BAS = projection_BAS > MIN_PROJECTION
    number_BA = counts_BAS.sum(-1)
    scores_BA = (projection_BAS * counts_BAS).sum(-1) / (number_BA + 1e-6)
    return scores_BA, number_BA / NUM_SAMPLES


def assemble(
    candidates: Sequence[Candidates], limbs: Sequence[Sequence[Limb]], keypoints: KeypointSet
) -> Poses:
    """Returns the poses that the limbs make up.

    Args:
        candidates: of each keypoint, in the network's order.
        limbs: limbs of each kind, in the order of the keypoint set.
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
    """
    people: list[_Person] = []
    for kind, found in enumerate(limbs):
        a, b, _, _, fills = keypoints.limbs[kind]
        for limb in found:
            if fills:
                _fill(people, a, b, limb)
            elif kind == 0 or not _extend(people, a, b, limb, candidates[b]):
                people.append(_start(a, b, limb, candidates))
    least = min(MIN_KEYPOINTS, keypoints.num_keypoints)
    return _to_dataset([p for p in people if _stands(p, least)], candidates, keypoints)


def _start(a: int, b: int, limb: Limb, candidates: Sequence[Candidates]) -> _Person:
    score_a, score_b = candidates[a].scores_M[limb.a], candidates[b].scores_M[limb.b]
    return _Person({a: limb.a, b: limb.b}, float(score_a) + float(score_b) + limb.score)


def _extend(people: list[_Person], a: int, b: int, limb: Limb, b_candidates: Candidates) -> bool:
    extended = [person for person in people if person.members.get(a) == limb.a]
    for person in extended:
        person.members[b] = limb.b
        person.count += 1
        person.score += float(b_candidates.scores_M[limb.b]) + limb.score
    return bool(extended)


def _fill(people: list[_Person], a: int, b: int, limb: Limb) -> None:
    for person in people:
        if person.members.get(a) == limb.a and b not in person.members:
            person.members[b] = limb.b
        elif person.members.get(b) == limb.b and a not in person.members:
            person.members[a] = limb.a


def _stands(person: _Person, least: int) -> bool:
    return person.count >= least and person.score / person.count >= MIN_MEAN_SCORE


def _to_dataset(
    people: Sequence[_Person], candidates: Sequence[Candidates], keypoints: KeypointSet
) -> Poses:
    keypoints_PV = np.zeros((len(people), 3 * keypoints.num_dataset_keypoints))
    scores_P = np.zeros(len(people))
    places = keypoints.to_dataset
    for row, person in enumerate(people):
        # COCO has no neck, and the published score counts one keypoint less than the person has.
        scores_P[row] = person.score * max(0, person.count - len(keypoints.derived))
        for keypoint, index in person.members.items():
            column = places[keypoint]
            if column is not None:
                x, y = candidates[keypoint].xy_M2[index]
                # A pixel's centre is half a pixel from its corner.
                keypoints_PV[row, 3 * column : 3 * column + 3] = x + 0.5, y + 0.5, 1
    return Poses(keypoints_PV, scores_P)
