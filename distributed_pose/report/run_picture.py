"""Draws the people of a stored run on its images, beside the labelled people if wanted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.files.local import check_not_input, one_line
from distributed_pose.files.storage import filesystem_of, is_local
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.scores import normalised_score
from distributed_pose.records.images import ImageRecord
from distributed_pose.report.pictures import (
    Image,
    draw_poses,
    draw_scores,
    sheet,
    write_picture,
)
from distributed_pose.report.skeletons import draw_legend, limb_colours
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.vision.decode import decode_unlisted_image

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What a picture shows.

    Attributes:
        count: largest number of images, the first with detections; not used with `worst` or
            `image_ids`.
        worst: number of images with the largest loss to show; 0 for none.
        image_ids: ids in the annotation file of the images to show.
        with_truth: whether the labelled people are shown at the left of the detected ones.
        with_scores: whether each detected person has its normalised score.
        columns: number of images in a row.
    """

    count: int = 4
    worst: int = 0
    image_ids: Sequence[str] = ()
    with_truth: bool = False
    with_scores: bool = False
    columns: int = 4


def draw_run(run: StoredRun, output: Path, options: PictureOptions) -> None:
    """Writes a picture of the people that a run found.

    Args:
        run: the stored run.
        output: path of the picture; its suffix determines the format.
        options: what the picture shows.

    Raises:
        ConfigError: if an image is not in the run, or the picture would overwrite an image.
        SetupError: if the run's files or images cannot be read, or it has nothing to draw.
    """
    check_not_input(output, _files(run))
    found = _by_image(run.detections)
    truth = _by_image([one for one in run.index.ground_truth["annotations"] if not one["iscrowd"]])
    keypoints = run.index.keypoints
    groups = []
    for image in _chosen(run, found, options):
        image_HW3 = _load(run, image.file_name)
        detected = _detected(image_HW3, found.get(image.image_id, []), keypoints, options)
        labelled = [_points(truth.get(image.image_id, []))] if options.with_truth else []
        groups.append(
            [*(draw_poses(image_HW3, people, keypoints) for people in labelled), detected]
        )
    if limb_colours(keypoints):
        groups.append([draw_legend(keypoints)])
    write_picture(output, sheet(groups, options.columns))


def _chosen(
    run: StoredRun, found: Mapping[int, Entries], options: PictureOptions
) -> list[ImageRecord]:
    listed = {str(run.index.listed_id(image.image_id)): image for image in run.index.images}
    if options.image_ids:
        if strangers := [one for one in options.image_ids if one not in listed]:
            raise ConfigError(f"--image {strangers[0]}: the run has no image of that id")
        return [listed[one] for one in options.image_ids]
    if options.worst:
        worst = [listed[str(one.image_id)] for one in run.analysis.images[: options.worst]]
        if not worst:
            raise SetupError(f"{run.location} has no image with an error to draw")
        return worst
    if not found:
        raise SetupError(f"{run.location} has no detections to draw")
    return [image for image in run.index.images if image.image_id in found][: options.count]


def _files(run: StoredRun) -> dict[str, Path | None]:
    """Returns the paths of images by name; empty if they are not on this machine."""
    filesystem, folder = filesystem_of(run.images.location, "data.images")
    names = [image.file_name for image in run.index.images]
    return {name: Path(folder, name) for name in names} if is_local(filesystem) else {}


def _by_image(entries: Entries) -> dict[int, list[Mapping[str, Any]]]:
    people: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for one in entries:
        people[one["image_id"]].append(one)
    return dict(people)


def _points(people: Entries) -> list[Sequence[float]]:
    return [one["keypoints"] for one in people]


def _detected(
    image_HW3: Image, people: Entries, keypoints: KeypointSet, options: PictureOptions
) -> Image:
    drawn = draw_poses(image_HW3, _points(people), keypoints)
    if not options.with_scores:
        return drawn
    return draw_scores(drawn, _points(people), [normalised_score(one["score"]) for one in people])


def _load(run: StoredRun, name: str) -> Image:
    try:
        return decode_unlisted_image(run.images.read(name)).image_HW3
    except (OSError, ValueError) as error:
        where = run.images.location.within(name)
        raise SetupError(f"cannot read {where}: {one_line(error)}") from None
