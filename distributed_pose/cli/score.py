"""The `score` command: AP of any COCO keypoint results."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.cli.options import AsJson, KeypointsFile
from distributed_pose.cli.terminal import Terminal, print_line, print_text
from distributed_pose.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed_pose.data.coco import CocoIndex


def score(
    *,
    detections: Annotated[
        str,
        typer.Argument(
            metavar="DETECTIONS.json", help="COCO keypoint results of any tool, a path or a URI."
        ),
    ],
    annotations: Annotated[
        str,
        typer.Argument(
            metavar="ANNOTATIONS.json", help="COCO keypoint annotations, a path or a URI."
        ),
    ],
    limit: Annotated[
        int | None,
        typer.Option(
            help="Number of images to score, in ascending order of id, as data.limit of a run.",
            min=1,
            max=2**31 - 1,
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(
            help="Id or name of the person's category in the annotations, if several fit."
        ),
    ] = None,
    keypoints: KeypointsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compute COCO keypoint AP of a file of detections, exactly as a run computes its own."""
    from distributed_pose.data.coco import load_index
    from distributed_pose.data.results_file import read_results
    from distributed_pose.keypoints.reading import read_keypoint_set
    from distributed_pose.metrics.coco_ap import coco_ap

    chosen = read_keypoint_set(keypoints) if keypoints else None
    index = load_index(annotations, limit, category, keypoints=chosen)
    if not index.is_labelled:
        raise SetupError(f"{annotations} has no annotations, so that nothing can be scored")
    found, notes = read_results(detections, index)
    image_ids = [image.image_id for image in index.images]
    figures = coco_ap(index.ground_truth, found, image_ids, index.keypoints.sigmas)
    notes = (*index.notes, *notes)
    if as_json:
        sizes = {"num_images": len(index.images), "num_detections": len(found)}
        record = {**sizes, "ap": figures, "notes": notes}
        print_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    else:
        _print_figures(figures, index, len(found), notes)


def _print_figures(
    figures: "Mapping[str, float]", index: "CocoIndex", num_detections: int, notes: "Sequence[str]"
) -> None:
    from distributed_pose.report.tables import ap_table

    for note in notes:
        print_line(note)
    part = f" of {index.num_images_listed}" if index.is_partial else ""
    title = f"COCO keypoint AP, {len(index.images)}{part} images"
    Terminal().print(ap_table(figures, title, f"{num_detections} detections"))
