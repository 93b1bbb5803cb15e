"""Computes COCO keypoint AP with pycocotools in groups of images, in bounded memory.

pycocotools keeps 18 kB per image until it has the figures. Here it evaluates some hundred images
at a time, of which only scores and hits are kept, and accumulates them at the end. Its own code
does both, so that the figures are those of `coco_ap` to the last bit.

Array legend: T thresholds, D detections.
"""

import contextlib
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distributed_pose.metrics.coco_ap import PERSON_CATEGORY, evaluated, figures_of
from distributed_pose.metrics.ground_truth import People
from distributed_pose.metrics.image_groups import ImageGroup, image_groups

_Evaluated = dict[str, Any]


def reference_ap(
    people: People,
    detections: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float] | None = None,
) -> dict[str, float]:
    """Returns the ten COCO keypoint figures by name, over the given images.

    Args:
        people: people of the images, and of others, which do not count.
        detections: detections in COCO's results format and in canonical order.
        image_ids: ids of the images to score.
        sigmas: sigma of each keypoint in OKS; None for those of COCO's body.
    """
    groups = [_by_area(group, sigmas) for group in image_groups(people, detections, image_ids)]
    with contextlib.redirect_stdout(io.StringIO()):
        # The groups take the place of images. The limit of detections per image was applied above.
        evaluation = evaluated(_truth((), ()), (), range(len(groups)))
        per_image, evaluation.params.maxDets = evaluation.params.maxDets, [sys.maxsize]
        evaluation.evaluate()
        evaluation.evalImgs = [joined for area in zip(*groups, strict=True) for joined in area]
        evaluation.accumulate()
        evaluation.params.maxDets = per_image
        return figures_of(evaluation)


def _by_area(group: ImageGroup, sigmas: Sequence[float] | None) -> list[_Evaluated | None]:
    """Returns what accumulating needs of the images of a group, joined for each range of areas."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _truth(group.image_ids, group.people)
        images = evaluated(truth, group.detections, group.image_ids, sigmas).evalImgs
    number = len(group.image_ids)
    return [_joined(images[start : start + number]) for start in range(0, len(images), number)]


def _truth(image_ids: Sequence[int], people: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "images": [{"id": image_id} for image_id in image_ids],
        "annotations": people,
        "categories": [{"id": PERSON_CATEGORY, "name": "person"}],
    }


def _joined(images: Sequence[_Evaluated | None]) -> _Evaluated | None:
    """Returns evaluated images as if they were one; None if none has people or detections."""
    kept = [image for image in images if image is not None]
    if not kept:
        return None
    return {
        "dtScores": np.concatenate([image["dtScores"] for image in kept]),
        "dtMatches": np.concatenate([image["dtMatches"] for image in kept], axis=1) != 0,
        "dtIgnore": np.concatenate([image["dtIgnore"] for image in kept], axis=1) != 0,
        "gtIgnore": np.concatenate([image["gtIgnore"] for image in kept]) != 0,
    }
