"""Connects pairs of keypoint candidates into limbs, by the mean of PAFs at several scales.

The steps are those of `limbs`; only the values of the fields are means. Legend: S scales, L kinds
of limbs, h and w size of a region in pixels.
"""

import numpy as np

from distributed_pose.pose.kernels import compiled, compiled_part, inlined
from distributed_pose.pose.limbs import (
    ACCEPTED_PIXELS,
    CERTAINLY_BELOW,
    MIN_COUNTING,
    ORDER,
    TESTED_PIXELS,
    Limbs,
    Pairs,
    around,
    count_pairs,
    dense_score,
    line,
    sample,
    sampled_score,
    take_best,
)
from distributed_pose.pose.limits import MAX_PAIRS
from distributed_pose.pose.mean_peaks import mean_in_box
from distributed_pose.pose.peaks import Candidates, Scratch
from distributed_pose.pose.resample import REACH, Box, Floats, Ints, in_tail
from distributed_pose.pose.samples import NUM_SAMPLES, Samples, take_samples
from distributed_pose.pose.scale_maps import ScaleAxes, ScaleMaps, axes_at, channel_at


@compiled
def find_mean_limbs(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    kinds_L4: Ints,
    candidates: Candidates,
    limbs: Limbs,
    pairs: Pairs,
    scratch: Scratch,
    sums: Floats,
) -> tuple[int, int]:
    """Finds the limbs of each kind, best first; see `limbs.find_limbs`.

    Args:
        maps: PAFs at all scales.
        yx: resizes at all scales.
        kinds_L4: both keypoints and both PAF channels of each kind of limb.
        candidates: candidates of all keypoints.
        limbs: buffers for the limbs.
        pairs: buffers for the pairs of one kind.
        scratch: buffers for the largest scale, and for both fields at all pixels.
        sums: buffer of the size of `Samples.values`.

    Returns:
        The number of rows that `pairs` needs, and the number of pairs of all kinds together.
    """
    room, total = count_pairs(candidates, kinds_L4)
    if room > len(pairs.a_R) or total > MAX_PAIRS:
        return room, total
    limbs.used_M[: candidates.offsets_K[-1]] = 0
    limbs.offsets[0] = 0
    end = limbs.offsets[0]
    for kind in range(len(kinds_L4)):
        number = _accepted_pairs(maps, yx, kinds_L4, kind, candidates, pairs, scratch, sums)
        end = take_best(pairs, number, kind, limbs, end)
        limbs.offsets[kind + 1] = end
    return room, total


@compiled_part
def _accepted_pairs(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    kinds_L4: Ints,
    kind: int,
    candidates: Candidates,
    pairs: Pairs,
    scratch: Scratch,
    sums: Floats,
) -> int:
    keypoint_a, keypoint_b, channel_x, channel_y = kinds_L4[kind]
    channels = channel_x, channel_y
    height, width = yx[0].gaps_Sh.shape[1], yx[1].gaps_Sh.shape[1]
    pafs = 2 * len(kinds_L4)
    is_tail = in_tail(channel_x, pafs, width), in_tail(channel_y, pafs, width)
    ends_a = candidates.offsets_K[keypoint_a], candidates.offsets_K[keypoint_a + 1]
    ends_b = candidates.offsets_K[keypoint_b], candidates.offsets_K[keypoint_b + 1]
    box = Box(0, 0, 0, 0)
    pixels_left = height * width
    is_dense = False
    fields_hw2 = scratch.fields[:0].reshape(0, 1, 2)
    number = 0
    for b in range(ends_b[0], ends_b[1]):
        if pixels_left < 0 and not is_dense:
            box = around(candidates, ends_a, ends_b)
            fields_hw2 = _evaluated(maps, yx, channels, box, scratch, is_tail)
            is_dense = True
        for a in range(ends_a[0], ends_a[1]):
            if is_dense:
                score = dense_score(fields_hw2, box, candidates, a, b, pairs.samples.values)
            else:
                score = _score(maps, yx, channels, candidates, a, b, pairs.samples, sums, is_tail)
                pixels_left -= ACCEPTED_PIXELS if score > 0 else TESTED_PIXELS
            if score > 0:
                pairs.a_R[number], pairs.b_R[number] = a, b
                pairs.scores_R[number] = score
                number += 1
    return number


@compiled_part
def _evaluated(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    channels: tuple[int, int],
    box: Box,
    scratch: Scratch,
    is_tail: tuple[bool, bool],
) -> Floats:
    """Returns the means of both fields in a box, float32 [h, w, 2], as a part of `scratch`."""
    height, width = box.bottom - box.top, box.right - box.left
    fields_hw2 = scratch.fields[: 2 * height * width].reshape(height, width, 2)
    beyond = scratch.fields[2 * height * width :]
    for component in range(2):
        tail = is_tail[component]
        mean_hw = mean_in_box(maps, yx, channels[component], box, beyond, scratch, tail)
        for row in range(height):
            for column in range(width):
                fields_hw2[row, column, component] = mean_hw[row, column]
    return fields_hw2


@compiled_part
def _score(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    channels: tuple[int, int],
    candidates: Candidates,
    a: int,
    b: int,
    samples: Samples,
    sums: Floats,
    is_tail: tuple[bool, bool],
) -> float:
    """Returns the mean of the projections above the minimum, or 0 if too few samples have one."""
    start, step, unit = line(candidates, a, b)
    left = NUM_SAMPLES
    for index in ORDER:
        x, y = sample(start, step, index)
        estimate = _estimate(maps, yx, channels, y, x)
        left -= bool(estimate[0] * unit[0] + estimate[1] * unit[1] < CERTAINLY_BELOW)
        if left < MIN_COUNTING:
            return 0.0
    for index in range(NUM_SAMPLES):
        samples.x_px[index], samples.y_px[index] = sample(start, step, index)
    scales = np.float32(len(maps.starts_S))
    sums[:] = 0
    for scale in range(len(maps.starts_S)):
        fields = channel_at(maps, scale, channels[0]), channel_at(maps, scale, channels[1])
        take_samples(fields, axes_at(maps, yx, scale), samples, is_tail)
        for lane in range(len(sums)):
            sums[lane] += samples.values[lane] / scales
    return sampled_score(sums, unit)


@inlined
def _estimate(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    channels: tuple[int, int],
    y: int,
    x: int,
) -> tuple[np.float32, np.float32]:
    """Returns the means of both fields at one pixel up to rounding; see `samples.estimate`."""
    total_x = total_y = np.float32(0)
    for scale in range(len(maps.starts_S)):
        height, width = maps.sizes_S2[scale, 0], maps.sizes_S2[scale, 1]
        start_x = maps.starts_S[scale] + channels[0] * height * width
        start_y = maps.starts_S[scale] + channels[1] * height * width
        top, left = yx[0].gaps_Sh[scale, y] - REACH, yx[1].gaps_Sh[scale, x] - REACH
        for row in range(2 * REACH):
            cells = min(max(top + row, 0), height - 1) * width
            weight_y = yx[0].blend_Sh6[scale, y, row]
            for column in range(2 * REACH):
                cell = cells + min(max(left + column, 0), width - 1)
                weight = weight_y * yx[1].blend_Sh6[scale, x, column]
                total_x += maps.values[start_x + cell] * weight
                total_y += maps.values[start_y + cell] * weight
    scales = np.float32(len(maps.starts_S))
    return total_x / scales, total_y / scales
