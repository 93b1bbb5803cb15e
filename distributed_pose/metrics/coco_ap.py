"""COCO keypoint AP of detections.

Source: pycocotools' COCOeval with iouType "keypoints", the reference implementation of the metric.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

PERSON_CATEGORY = 1

# The ten figures, in the order in which COCOeval gives them.
FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def coco_ap(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
) -> dict[str, float]:
    """Returns the ten COCO keypoint figures by name, over the given images.

    A figure that COCO leaves undefined, because no person of that size is labelled, is -1.

    Args:
        ground_truth: images and people in COCO's format, category 1, annotation ids from 1: COCO's
            code takes a match with id 0 for no match. `data.coco` makes it of any annotation file.
        detections: in COCO results format and in canonical order, since AP depends on the order
            of tied scores.
        image_ids: the images to score.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        # COCOeval writes into the annotations.
        truth.dataset = {**ground_truth, "annotations": [*map(dict, ground_truth["annotations"])]}
        truth.createIndex()
        # loadRes adds fields to its argument, and cannot read an empty list.
        found = truth.loadRes([dict(d) for d in detections]) if detections else COCO()
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.imgIds = list(image_ids)
        evaluation.params.catIds = [PERSON_CATEGORY]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)}
