"""Precision and recall of matched detections, over all images or a weighted sample of them.

Source: COCOeval.accumulate of pycocotools, with a weight for each image.

Array legend: T thresholds, D detections, I images, O original images, R recalls.
"""

from functools import cached_property

import numpy as np

from distributed_pose.metrics.matches import Bools, Floats, Ints, Matches

# The recalls at which COCO averages the precision, computed as COCO does.
RECALLS_R = np.linspace(0.0, 1.0, 101)

_EPSILON = np.spacing(1)


class PrecisionRecall:
    """Computes precision at each recall for images of any weights, with the detections sorted once.

    Args:
        matches: matches of detections with people.
        originals_I: number, from 0, of the original image that each image is a copy of; None if no
            image is a copy.
    """

    def __init__(self, matches: Matches, originals_I: Ints | None = None) -> None:
        # COCO sorts so that detections of equal score keep the order of their images.
        order_D = np.argsort(-matches.scores_D, kind="mergesort")
        self._image_D: Ints = matches.image_D[order_D]
        is_hit_TD = (matches.person_TD >= 0) & ~matches.is_ignored_TD
        is_miss_TD = (matches.person_TD < 0) & ~matches.is_ignored_TD
        self._is_hit_TD: Bools = is_hit_TD[:, order_D]
        self._is_miss_TD: Bools = is_miss_TD[:, order_D]
        counted = matches.image_P[matches.is_counted_P]
        self._positives_I: Ints = np.bincount(counted, minlength=matches.num_images)
        self._originals_I = np.arange(matches.num_images) if originals_I is None else originals_I

    @cached_property
    def num_images(self) -> int:
        """Number of images."""
        return len(self._positives_I)

    @cached_property
    def num_originals(self) -> int:
        """Number of images without their copies."""
        return int(self._originals_I.max(initial=-1)) + 1

    def weights(self, weights_O: Ints) -> Ints:
        """Returns the weight of each image, [I], which is that of the image it is a copy of.

        Args:
            weights_O: weight of each original image.
        """
        return weights_O[self._originals_I]

    def precision(self, weights_I: Ints | None = None) -> Floats | None:
        """Returns the precision at each threshold and recall, [T, R]; None without labelled people.

        Args:
            weights_I: number of times that each image counts; None counts each once.
        """
        weights_I = np.ones(self.num_images, np.int64) if weights_I is None else weights_I
        positives = int(weights_I @ self._positives_I)
        if not positives:
            return None
        weights_D = weights_I[self._image_D]
        hits_TD = np.cumsum(self._is_hit_TD * weights_D, axis=1, dtype=np.float64)
        misses_TD = np.cumsum(self._is_miss_TD * weights_D, axis=1, dtype=np.float64)
        precision_TD = hits_TD / (misses_TD + hits_TD + _EPSILON)
        envelope_TD = np.maximum.accumulate(precision_TD[:, ::-1], axis=1)[:, ::-1]
        precision_TR = np.zeros((len(hits_TD), len(RECALLS_R)))
        for row, (hits_D, envelope_D) in enumerate(zip(hits_TD, envelope_TD, strict=True)):
            reached_R = np.searchsorted(hits_D / positives, RECALLS_R, side="left")
            known_R = reached_R < len(hits_D)
            precision_TR[row, known_R] = envelope_D[reached_R[known_R]]
        return precision_TR

    def ap(self, weights_I: Ints | None = None) -> float:
        """Returns the average precision over thresholds and recalls; -1 without labelled people."""
        precision_TR = self.precision(weights_I)
        return -1.0 if precision_TR is None else float(np.mean(precision_TR))
