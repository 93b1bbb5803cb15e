"""Part affinity fields to limbs: which candidates of two keypoints belong together.

Array legend: h and w image size in pixels, A and B candidates of a limb's two keypoints, S sample
points a limb.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.peaks import Candidates

NUM_SAMPLES = 10
MIN_PROJECTION = 0.05
MIN_SUCCESS_RATIO = 0.8


class Limb(NamedTuple):
    """Two candidates joined: their indices among their keypoints' candidates, and the score."""

    a: int
    b: int
    score: float


def find_limbs(paf_hw2: npt.NDArray[np.float32], a: Candidates, b: Candidates) -> list[Limb]:
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


def _score(
    paf_hw2: npt.NDArray[np.float32],
    a_A2: npt.NDArray[np.float32],
    b_B2: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
