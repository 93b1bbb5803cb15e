"""Scores the detections of a run, with a faster library where there are many images.

pycocotools takes half a millisecond per image. hotcoco computes the same ten figures to
the last bit in a fiftieth of the time, which each run checks on a sample of its own images.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter_ns
from typing import Any, Protocol

from distributed_pose.metrics.fast_ap import fast_ap
from distributed_pose.metrics.ground_truth import People
from distributed_pose.metrics.reference_ap import reference_ap
from distributed_pose.packages import is_installed

_LOG = logging.getLogger(__name__)

# pycocotools takes ten seconds for as many images.
FAST_FROM = 20_000

# The images of the sample are spread over the run; pycocotools takes a second for them.
_SAMPLE = 2000

_LIBRARY = "hotcoco"


class DetectionsByImage(Protocol):
    """Detections in COCO's results format and in canonical order; see `data.detections`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...

    def __contains__(self, row: object, /) -> bool: ...

    def of_images(self, image_ids: Sequence[int]) -> Collection[Mapping[str, Any]]:
        """Returns the detections in some images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The ten figures of a run.

    Attributes:
        figures: the ten COCO figures by name; -1 where COCO leaves one undefined.
        scorer: the library that computed them with its version, and how it was checked.
        duration_ns: time that scoring took, in nanoseconds.
    """

    figures: Mapping[str, float]
    scorer: str
    duration_ns: int


def score(
    people: People,
    detections: DetectionsByImage,
    image_ids: Sequence[int],
    fast_from: int = FAST_FROM,
    sigmas: Sequence[float] | None = None,
) -> Score:
    """Returns the figures of detections, which are the same whichever library computes them.

    Args:
        people: people of the images, and of others, which do not count.
        detections: see `coco_ap`.
        image_ids: ids of the images to score.
        fast_from: number of images from which on the faster library is used.
        sigmas: sigma of each keypoint in OKS; None for those of COCO's body.
    """
    start = perf_counter_ns()
    figures, scorer = _scored(people, detections, image_ids, fast_from, sigmas)
    return Score(figures=figures, scorer=scorer, duration_ns=perf_counter_ns() - start)


def _scored(
    people: People,
    detections: DetectionsByImage,
    image_ids: Sequence[int],
    fast_from: int,
    sigmas: Sequence[float] | None,
) -> tuple[dict[str, float], str]:
    reference = f"pycocotools {version('pycocotools')}"
    if len(image_ids) < fast_from:
        return reference_ap(people, detections, image_ids, sigmas), reference
    sample = sorted(image_ids)[:: max(1, len(image_ids) // _SAMPLE)]
    if reason := _unusable(people, detections, sample, sigmas):
        _LOG.warning("Scoring %s images takes minutes, because %s", f"{len(image_ids):,}", reason)
        figures = reference_ap(people, detections, image_ids, sigmas)
        return figures, f"{reference}, because {reason}"
    checked = f"equal to {reference} on {len(sample)} images"
    figures = fast_ap(people, detections, image_ids, sigmas)
    return figures, f"{_LIBRARY} {version(_LIBRARY)}, {checked}"


def _unusable(
    people: People,
    detections: DetectionsByImage,
    sample: Sequence[int],
    sigmas: Sequence[float] | None,
) -> str:
    """Returns why the faster library must not score; empty if it agrees on a sample of images."""
    if not is_installed(_LIBRARY):
        return f"{_LIBRARY} is not installed"
    rows, some = detections.of_images(sample), people.of_images(sample)
    try:
        expected = reference_ap(some, rows, sample, sigmas)
        is_equal = fast_ap(some, rows, sample, sigmas) == expected
    # After any error the reference scores instead.
    except Exception as error:  # noqa: BLE001
        return f"{_LIBRARY} fails: {' '.join(str(error).split())}"
    return "" if is_equal else f"{_LIBRARY} differs from pycocotools on {len(sample)} images"
