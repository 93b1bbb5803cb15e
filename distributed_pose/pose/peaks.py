"""Heatmaps to keypoint candidates.

Array legend: h and w image size in pixels, M candidates.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.1
SUPPRESSION_RADIUS_PX = 6.0


@dataclass(frozen=True)
class Candidates:
    """Candidates for one keypoint, sorted by x, then y.

    Attributes:
        xy_M2: float32 [M, 2], whole image pixels.
        scores_M: float32 [M], heatmap values.
    """

    xy_M2: npt.NDArray[np.float32]
    scores_M: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores_M)


def find_peaks(heatmap_hw: npt.NDArray[np.float32]) -> Candidates:
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


def _is_peak(heatmap_hw: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    padded = np.pad(np.where(heatmap_hw < THRESHOLD, np.float32(0), heatmap_hw), 1)
    center = padded[1:-1, 1:-1]
    return np.asarray(
        (center > padded[1:-1, 2:])
        & (center > padded[1:-1, :-2])
        & (center > padded[2:, 1:-1])
        & (center > padded[:-2, 1:-1])
    )


def _kept(xy_M2: npt.NDArray[np.float32]) -> list[int]:
    kept: list[int] = []
    for index, point in enumerate(xy_M2):
        distances = np.hypot(*(xy_M2[kept] - point).T)
        if not np.any(distances < SUPPRESSION_RADIUS_PX):
            kept.append(index)
    return kept
