"""Reads a stored run: its report, detections, configuration, annotations and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distributed_pose.data.coco import CocoIndex, load_index, repeated
from distributed_pose.data.results_file import read_results
from distributed_pose.data.sources import ImageSource, open_images
from distributed_pose.errors import SetupError
from distributed_pose.files.storage import read_location
from distributed_pose.locations import Location, redacted
from distributed_pose.metrics.matches import match
from distributed_pose.metrics.precision_recall import PrecisionRecall
from distributed_pose.packages import is_installed
from distributed_pose.report.analysis import Analysis, analyse
from distributed_pose.report.run_report import CONFIG, DETECTIONS, RunReport

# A configuration has some kilobytes.
_MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class StoredRun:
    """A run in its output folder; only its report must be there.

    Attributes:
        location: output folder of the run.
        report: report of the run.
    """

    location: Location
    report: RunReport

    @cached_property
    def config(self) -> str:
        """The configuration as YAML without credentials; empty if it cannot be read."""
        place = self.location.within(CONFIG)
        try:
            content = read_location(place, "the output folder", _MAX_CONFIG_BYTES)
        except SetupError:
            return ""
        return redacted(content.decode(errors="replace"))

    @cached_property
    def images(self) -> ImageSource:
        """The images of the run.

        Raises:
            SetupError: if they are not available.
        """
        return open_images(Location(self.report.data.images))

    @cached_property
    def index(self) -> CocoIndex:
        """The dataset of the run.

        Raises:
            SetupError: if the annotation file is not available, or lists other images.
        """
        data, num_images = self.report.data, self.report.num_images
        # A part of the images that the run evaluated several times.
        limit = num_images // data.repeat if self.report.partial_by_choice else None
        try:
            source = self.images
        except SetupError:
            source = None
        keypoints = self.report.keypoints
        listed = load_index(Location(data.annotations), limit, data.category, source, keypoints)
        index = repeated(listed, data.repeat)
        if len(index.images) != num_images:
            raise SetupError(
                f"{data.annotations} lists {len(index.images)} images, and the run had {num_images}"
            )
        return index

    @cached_property
    def detections(self) -> Sequence[Mapping[str, Any]]:
        """The detections in canonical order, with the ids of the index.

        Raises:
            SetupError: if they or the annotation file are not available.
        """
        return read_results(self.location.within(DETECTIONS), self.index)[0]

    @cached_property
    def analysis(self) -> Analysis:
        """The explanation of the run's AP.

        Raises:
            SetupError: if the run has no AP, or its files are not available.
        """
        self._check_scored()
        return analyse(self.index, self.detections)

    @cached_property
    def precision_recall(self) -> PrecisionRecall:
        """Precision and recall of the detections.

        Raises:
            SetupError: if the run has no AP, or its files are not available.
        """
        self._check_scored()
        image_ids = [image.image_id for image in self.index.images]
        people = self.index.ground_truth["annotations"]
        sigmas = self.index.keypoints.sigmas
        matches = match(people, self.detections, image_ids, sigmas)
        return PrecisionRecall(matches, self.index.originals(image_ids))

    @property
    def analysis_or_reason(self) -> tuple[Analysis | None, str]:
        """The explanation of the run's AP, or else the reason why there is none."""
        try:
            return self.analysis, ""
        except SetupError as error:
            return None, str(error)

    def _check_scored(self) -> None:
        if self.report.ap is None:
            raise SetupError(f"the run has no AP: {self.report.unscored}")
        if not is_installed("hotcoco"):
            raise SetupError("an analysis needs hotcoco, which is not installed")


def read_run(folder: Path | str | Location) -> StoredRun:
    """Returns a stored run.

    Args:
        folder: output folder of an evaluation, a path or a URI.

    Raises:
        SetupError: if the folder has no report.
    """
    return StoredRun(Location(folder), RunReport.load(folder))
