"""Computes COCO keypoint AP of detections.

Source: pycocotools' COCOeval with iouType "keypoints", the reference implementation of the metric.
"""

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

PERSON_CATEGORY = 1

# The ten figures, in COCOeval's order.
FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def coco_ap(
    ground_truth: Mapping[str, Any],
    detections: Collection[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float] | None = None,
) -> dict[str, float]:
    """Returns the ten COCO keypoint figures by name, over the given images.

    A figure is -1 where COCO leaves it undefined because no person of that size is labelled.

    Args:
        ground_truth: images and people in COCO's format, with category 1 and annotation ids from 1,
            because COCO's code reads a match with id 0 as no match. `data.coco` creates it from
            any annotation file.
        detections: detections in COCO's results format, in canonical order, because AP depends on
            the order of tied scores.
        image_ids: ids of the images to score.
        sigmas: sigma of each keypoint in OKS; None for those of COCO's body.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluated(ground_truth, detections, image_ids, sigmas)
        evaluation.accumulate()
        return figures_of(evaluation)


def evaluated(
    ground_truth: Mapping[str, Any],
    detections: Collection[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float] | None = None,
) -> COCOeval:
    """Returns the evaluation of each image, not accumulated yet; see `coco_ap`. It prints."""
    truth = COCO()
    # COCOeval writes into the annotations.
    truth.dataset = {**ground_truth, "annotations": [*map(dict, ground_truth["annotations"])]}
    truth.createIndex()
    # loadRes adds fields to its argument, and cannot read an empty list.
    results = truth.loadRes([dict(d) for d in detections]) if detections else COCO()
    evaluation = COCOeval(truth, results, "keypoints")
    evaluation.params.imgIds = list(image_ids)
    evaluation.params.catIds = [PERSON_CATEGORY]
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    return evaluation


def figures_of(evaluation: COCOeval) -> dict[str, float]:
    """Returns the ten COCO keypoint figures of an accumulated evaluation by name. It prints."""
    evaluation.summarize()
    return {name: float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)}


def coco_results(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns detections in COCO results format and in canonical order.

    AP depends on the order of tied scores, so the order must not depend on who came first: by
    image id, then score from high to low, then keypoints.

    Args:
        rows: with the keys of `data.shards.DETECTIONS`.
    """
    results = [
        {
            "image_id": row["image_id"],
            "category_id": PERSON_CATEGORY,
            "keypoints": row["keypoints"],
            "score": row["score"],
        }
        for row in rows
    ]
    return sorted(results, key=lambda r: (r["image_id"], -r["score"], r["keypoints"]))
