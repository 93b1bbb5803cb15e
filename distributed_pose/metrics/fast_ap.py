"""Computes COCO keypoint AP with hotcoco, which has the figures of pycocotools to the last bit.

Images are scored in groups, so that only their matches are kept.

Source: hotcoco's StreamingEval with iouType "keypoints".
"""

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distributed_pose.metrics.coco_ap import FIGURES, PERSON_CATEGORY
from distributed_pose.metrics.ground_truth import People
from distributed_pose.metrics.image_groups import image_groups

if TYPE_CHECKING:
    from hotcoco import StreamingEval

_Row = Mapping[str, Any]


def fast_ap(
    people: People,
    detections: Iterable[_Row],
    image_ids: Sequence[int],
    sigmas: Sequence[float] | None = None,
) -> dict[str, float]:
    """Returns the ten COCO keypoint figures by name, over the given images.

    Args:
        people: people of the images, and of others, which do not count.
        detections: see `coco_ap`.
        image_ids: ids of the images to score.
        sigmas: sigma of each keypoint in OKS; None for those of COCO's body.
    """
    return figures_of(matched(people, detections, image_ids, sigmas=sigmas))


def matched(
    people: People,
    detections: Iterable[_Row],
    image_ids: Sequence[int],
    first: int = 0,
    sigmas: Sequence[float] | None = None,
) -> "StreamingEval":
    """Returns the matches of images, which can be merged with those of other images.

    Args:
        people: people of the images, and of others, which do not count.
        detections: see `coco_ap`.
        image_ids: ids of the images.
        first: number of the image with the lowest id among all images of a run.
        sigmas: sigma of each keypoint in OKS; None for those of COCO's body.
    """
    from hotcoco import Params, StreamingEval

    parameters = Params("keypoints")
    if sigmas is not None:
        parameters.kpt_oks_sigmas = list(sigmas)
    categories = [{"id": PERSON_CATEGORY, "name": "person"}]
    evaluation = StreamingEval(categories, "keypoints", params=parameters)
    for group in image_groups(people, detections, image_ids):
        # Ids can be negative here, but not in hotcoco. Numbers in their order keep that of ties.
        numbers = {image_id: number for number, image_id in enumerate(group.image_ids, first)}
        for person in group.people:
            person["image_id"] = numbers[person["image_id"]]
            # It only matters whether the number is 0, and hotcoco reads integers only.
            person["num_keypoints"] = int(person["num_keypoints"] != 0)
        rows = [{**row, "image_id": numbers[row["image_id"]]} for row in group.detections]
        evaluation.update([{"id": number} for number in numbers.values()], group.people, rows)
        first += len(numbers)
    return evaluation


def figures_of(matches: "StreamingEval") -> dict[str, float]:
    """Returns the ten COCO keypoint figures by name; the matches cannot be used afterwards."""
    with quietly():
        result = matches.finalize()
        result.accumulate()
        result.summarize()
    return {name: float(value) for name, value in zip(FIGURES, result.stats, strict=True)}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps hotcoco from printing figures, and from warning that sigmas are not COCO's."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hotcoco: kpt_oks_sigmas", UserWarning)
        yield
