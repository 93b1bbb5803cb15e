"""Connects pairs of keypoint candidates into limbs, by part affinity fields (PAFs).

The fields are evaluated only at the sample points. Where there are so many pairs that this takes as
long as all pixels, the pixels between the candidates are evaluated once for the remaining pairs,
with the same values.

Legend: P PAF channels, H and W map size in cells, M candidates of all keypoints, L limbs of all
kinds, R accepted pairs of one kind of limb, h and w size of the region in pixels.
"""

from typing import NamedTuple

import numpy as np

from distributed_pose.pose.kernels import compiled, compiled_part, inlined
from distributed_pose.pose.limits import MAX_PAIRS
from distributed_pose.pose.peaks import Candidates, Scratch
from distributed_pose.pose.resample import (
    TAPS,
    Axis,
    Box,
    Doubles,
    Floats,
    Ints,
    enlarged,
    in_tail,
    resized,
)
from distributed_pose.pose.samples import NUM_SAMPLES, Samples, estimate, take_samples
from distributed_pose.pose.topology import Topology

MIN_PROJECTION = np.float32(0.05)
# More than 80 % of the ten samples must exceed the minimum projection.
MIN_COUNTING = 9

_STEP = np.float32(1 / (NUM_SAMPLES - 1))
# The reference adds these to avoid a division by zero.
_SMALLEST_NORM = np.float32(1e-6)
_SMALLEST_COUNT = 1e-6

# Below the minimum projection by more than the largest error of an estimate.
CERTAINLY_BELOW = MIN_PROJECTION - np.float32(1e-3)

# From the middle outwards: a wrong pair is rejected sooner there, because its ends lie on people.
ORDER = np.array([4, 5, 3, 6, 2, 7, 1, 8, 0, 9])

# Pixels of both fields that are evaluated in the time of a tested pair, and of an accepted one.
TESTED_PIXELS = 50
ACCEPTED_PIXELS = 300


class Limbs(NamedTuple):
    """Limbs of all kinds, in buffers that may be longer than the number of limbs.

    The limbs of kind i, best first, are at `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        a_L: int64 [L], candidate at the limb's first keypoint, numbered over all keypoints.
        b_L: int64 [L], candidate at the limb's second keypoint, numbered over all keypoints.
        scores_L: float64 [L], score of each limb.
        offsets: int64 [kinds + 1], the first limb of each kind, and the end of the last kind.
        used_M: int64 [M], the last kind of limb that uses a candidate, counted from 1; 0 for none.
    """

    a_L: Ints
    b_L: Ints
    scores_L: Doubles
    offsets: Ints
    used_M: Ints


class Pairs(NamedTuple):
    """Accepted pairs of one kind of limb, in buffers with room for all pairs.

    Attributes:
        a_R: int64 [R], candidate at the first keypoint, numbered as in `Limbs`.
        b_R: int64 [R], candidate at the second keypoint, numbered as in `Limbs`.
        scores_R: float64 [R], score of each pair.
        samples: buffers for the samples of one pair.
    """

    a_R: Ints
    b_R: Ints
    scores_R: Doubles
    samples: Samples


@compiled
def find_limbs(
    pafs_PHW: Floats,
    yx: tuple[Axis, Axis],
    candidates: Candidates,
    limbs: Limbs,
    pairs: Pairs,
    scratch: Scratch,
    topology: Topology,
) -> tuple[int, int]:
    """Finds the limbs of each kind, best first; each kind uses a candidate at most once.

    Returns:
        The number of rows that `pairs` needs, and the number of pairs of all kinds together. Only
        with enough rows, and not more than `MAX_PAIRS`, limbs are found.
    """
    room, total = count_pairs(candidates, topology.limbs_L4)
    if room > len(pairs.a_R) or total > MAX_PAIRS:
        return room, total
    limbs.used_M[: candidates.offsets_K[-1]] = 0
    limbs.offsets[0] = 0
    end = limbs.offsets[0]
    for kind in range(len(topology.limbs_L4)):
        limb_4 = topology.limbs_L4[kind]
        number = _accepted_pairs(pafs_PHW, yx, candidates, limb_4, pairs, scratch)
        end = take_best(pairs, number, kind, limbs, end)
        limbs.offsets[kind + 1] = end
    return room, total


@compiled_part
def count_pairs(candidates: Candidates, kinds_L4: Ints) -> tuple[int, int]:
    """Returns the largest number of pairs of one kind of limb, and the number of all pairs."""
    room = total = 0
    for kind in range(len(kinds_L4)):
        a, b, ends = kinds_L4[kind, 0], kinds_L4[kind, 1], candidates.offsets_K
        pairs_of_kind = (ends[a + 1] - ends[a]) * (ends[b + 1] - ends[b])
        room, total = max(room, pairs_of_kind), total + pairs_of_kind
    return room, total


@compiled_part
def _accepted_pairs(
    pafs_PHW: Floats,
    yx: tuple[Axis, Axis],
    candidates: Candidates,
    limb_4: Ints,
    pairs: Pairs,
    scratch: Scratch,
) -> int:
    keypoint_a, keypoint_b, channel_x, channel_y = limb_4
    fields = pafs_PHW[channel_x], pafs_PHW[channel_y]
    channels, width = len(pafs_PHW), len(yx[1].taps)
    is_tail = in_tail(channel_x, channels, width), in_tail(channel_y, channels, width)
    ends_a = candidates.offsets_K[keypoint_a], candidates.offsets_K[keypoint_a + 1]
    ends_b = candidates.offsets_K[keypoint_b], candidates.offsets_K[keypoint_b + 1]
    box = Box(0, 0, 0, 0)
    pixels_left = len(yx[0].taps) * len(yx[1].taps)
    is_dense = False
    fields_hw2 = scratch.fields[:0].reshape(0, 1, 2)
    number = 0
    for b in range(ends_b[0], ends_b[1]):
        if pixels_left < 0 and not is_dense:
            box = around(candidates, ends_a, ends_b)
            fields_hw2 = _evaluated(fields, yx, box, scratch, is_tail)
            is_dense = True
        for a in range(ends_a[0], ends_a[1]):
            if is_dense:
                score = dense_score(fields_hw2, box, candidates, a, b, pairs.samples.values)
            else:
                score = _score(fields, yx, candidates, a, b, pairs.samples, is_tail)
                pixels_left -= ACCEPTED_PIXELS if score > 0 else TESTED_PIXELS
            if score > 0:
                pairs.a_R[number], pairs.b_R[number] = a, b
                pairs.scores_R[number] = score
                number += 1
    return number


@compiled_part
def around(candidates: Candidates, ends_a: tuple[int, int], ends_b: tuple[int, int]) -> Box:
    """Returns the pixels between all candidates of both keypoints, where all samples are."""
    x, y = candidates.x_M, candidates.y_M
    rows_a, rows_b = y[ends_a[0] : ends_a[1]], y[ends_b[0] : ends_b[1]]
    # Candidates are sorted by x.
    return Box(
        min(rows_a.min(), rows_b.min()),
        max(rows_a.max(), rows_b.max()) + 1,
        min(x[ends_a[0]], x[ends_b[0]]),
        max(x[ends_a[1] - 1], x[ends_b[1] - 1]) + 1,
    )


@compiled_part
def _evaluated(
    fields: tuple[Floats, Floats],
    yx: tuple[Axis, Axis],
    box: Box,
    scratch: Scratch,
    is_tail: tuple[bool, bool],
) -> Floats:
    """Returns the values of both fields in a box, float32 [h, w, 2], as a part of `scratch`."""
    height, width = box.bottom - box.top, box.right - box.left
    rows = yx[0].taps[box.top, 0], yx[0].taps[box.bottom - 1, TAPS - 1] + 1
    columns = yx[1].taps[box.left, 0], yx[1].taps[box.right - 1, TAPS - 1] + 1
    fields_hw2 = scratch.fields[: 2 * height * width].reshape(height, width, 2)
    for component in range(2):
        fine_hw = enlarged(fields[component], rows, columns, scratch.fine)
        origin = rows[0], columns[0]
        pixels_hw = resized(fine_hw, origin, yx, box, scratch.pixels, is_tail[component])
        # Numba compiles a slice assignment with messages about shapes, which takes seconds.
        for row in range(height):
            for column in range(width):
                fields_hw2[row, column, component] = pixels_hw[row, column]
    return fields_hw2


@compiled_part
def take_best(pairs: Pairs, number: int, kind: int, limbs: Limbs, end: int) -> int:
    """Appends accepted pairs as limbs, greedily from the best; returns the end of the limbs."""
    # Among equal scores the later pair comes first, as in the reference's reversed ascending sort.
    for index in np.argsort(pairs.scores_R[:number], kind="mergesort")[::-1]:
        a, b = pairs.a_R[index], pairs.b_R[index]
        if limbs.used_M[a] <= kind and limbs.used_M[b] <= kind:
            limbs.used_M[a] = limbs.used_M[b] = kind + 1
            limbs.a_L[end], limbs.b_L[end] = a, b
            limbs.scores_L[end] = pairs.scores_R[index]
            end += 1
    return end


@inlined
def _score(
    fields: tuple[Floats, Floats],
    yx: tuple[Axis, Axis],
    candidates: Candidates,
    a: int,
    b: int,
    samples: Samples,
    is_tail: tuple[bool, bool],
) -> float:
    """Returns the mean of the projections above the minimum, or 0 if too few samples have one."""
    start, step, unit = line(candidates, a, b)
    if not _may_be_limb(fields, yx, start, step, unit):
        return 0.0
    for index in range(NUM_SAMPLES):
        samples.x_px[index], samples.y_px[index] = sample(start, step, index)
    take_samples(fields, yx, samples, is_tail)
    return sampled_score(samples.values, unit)


@inlined
def sampled_score(values: Floats, unit: tuple[np.float32, np.float32]) -> float:
    """Returns the score of a pair from the values of both fields, which it overwrites."""
    counting = 0
    for index in range(NUM_SAMPLES):
        projection = values[index] * unit[0] + values[NUM_SAMPLES + index] * unit[1]
        counts = bool(projection > MIN_PROJECTION)
        counting += counts
        values[index] = projection if counts else np.float32(0)
    if counting < MIN_COUNTING:
        return 0.0
    return float(_sum(values) / (counting + _SMALLEST_COUNT))


@inlined
def dense_score(
    fields_hw2: Floats, box: Box, candidates: Candidates, a: int, b: int, values: Floats
) -> float:
    """Returns what `_score` returns, from fields at all pixels of a box."""
    start, step, unit = line(candidates, a, b)
    counting = NUM_SAMPLES
    for index in ORDER:
        x, y = sample(start, step, index)
        x, y = x - box.left, y - box.top
        projection = fields_hw2[y, x, 0] * unit[0] + fields_hw2[y, x, 1] * unit[1]
        counts = bool(projection > MIN_PROJECTION)
        counting -= not counts
        if counting < MIN_COUNTING:
            return 0.0
        values[index] = projection if counts else np.float32(0)
    return float(_sum(values) / (counting + _SMALLEST_COUNT))


@inlined
def line(
    candidates: Candidates, a: int, b: int
) -> tuple[
    tuple[np.float32, np.float32], tuple[np.float32, np.float32], tuple[np.float32, np.float32]
]:
    """Returns the first sample, the step to the next, and the direction of a pair, as x and y."""
    a_x, a_y = np.float32(candidates.x_M[a]), np.float32(candidates.y_M[a])
    vector_x = np.float32(candidates.x_M[b]) - a_x
    vector_y = np.float32(candidates.y_M[b]) - a_y
    norm = np.sqrt(vector_x * vector_x + vector_y * vector_y) + _SMALLEST_NORM
    step = vector_x * _STEP, vector_y * _STEP
    return (a_x, a_y), step, (vector_x / norm, vector_y / norm)


@inlined
def _may_be_limb(
    fields: tuple[Floats, Floats],
    yx: tuple[Axis, Axis],
    start: tuple[np.float32, np.float32],
    step: tuple[np.float32, np.float32],
    unit: tuple[np.float32, np.float32],
) -> bool:
    """Returns False if too many samples certainly project below the minimum."""
    left = NUM_SAMPLES
    for index in ORDER:
        x, y = sample(start, step, index)
        projection = estimate(fields[0], yx, y, x) * unit[0]
        projection += estimate(fields[1], yx, y, x) * unit[1]
        left -= bool(projection < CERTAINLY_BELOW)
        if left < MIN_COUNTING:
            return False
    return True


@inlined
def sample(
    start: tuple[np.float32, np.float32], step: tuple[np.float32, np.float32], index: int
) -> tuple[int, int]:
    """Returns x and y of a sample's pixel: computed in float32, rounded half to even."""
    number = np.float32(index)
    return int(np.rint(step[0] * number + start[0])), int(np.rint(step[1] * number + start[1]))


@compiled_part
def _sum(ten: Floats) -> np.float32:
    """Returns the sum of the first ten values in the order of NumPy's pairwise summation."""
    pairs = (ten[0] + ten[1]) + (ten[2] + ten[3])
    return np.float32(pairs + ((ten[4] + ten[5]) + (ten[6] + ten[7])) + ten[8] + ten[9])
