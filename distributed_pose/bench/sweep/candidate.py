"""A point in the course of a sweep: its run, evaluated round by round, and its figures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from distributed_pose.bench.sweep.judgement import Figures
from distributed_pose.bench.sweep.points import SweepPoint
from distributed_pose.bench.sweep.record import PointRecord
from distributed_pose.bench.sweep.rounds import figures_of, read_round
from distributed_pose.config.selection import check_computes
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.evaluation import Watch, evaluate_on, open_engine
from distributed_pose.locations import Location
from distributed_pose.report.run_report import RunReport
from distributed_pose.run.fingerprint import fingerprint
from distributed_pose.run.inputs import RunInputs, read_inputs

# See `SweepPlan.per`.
Per = Callable[[SweepPoint, float, RunReport], dict[str, float]]

# Parts of a fingerprint in which the points of one sweep may differ.
_SWEPT = {"input", "precision"}


@dataclass(eq=False)
class Candidate:
    """A point in the course of a sweep.

    Attributes:
        point: the point.
        suffix: settings beside size and precision that its label names.
        folder: folder of its run.
        inputs: inputs of its run.
        outcome: see `PointRecord`.
        reason: see `PointRecord`.
        figures: figures over the images so far; None if unknown.
        report: last report of its run; None if there is none.
    """

    point: SweepPoint
    suffix: str
    folder: Location
    inputs: RunInputs
    outcome: str = "pending"
    reason: str = ""
    figures: Figures | None = None
    report: RunReport | None = None

    @property
    def label(self) -> str:
        """Size and precision in use, and the other settings in which points differ."""
        precision = self.report.precision if self.report else self.point.settings["precision"]
        return f"{self.inputs.selection.input_size} {precision}{self.suffix}"

    @property
    def is_pending(self) -> bool:
        """Whether the point has further rounds."""
        return self.outcome == "pending"

    @property
    def identity(self) -> dict[str, str]:
        """Digests and settings that all points of a sweep share, by name."""
        parts = fingerprint(self.point.config, self.inputs)
        # Packages that only some backends come from follow the code of this one.
        parts["code"] = parts["code"].partition(",")[0]
        return {name: text for name, text in parts.items() if name not in _SWEPT}

    def end(self, outcome: str, reason: str = "") -> None:
        """Ends the point, which then has no further rounds; see `PointRecord`."""
        self.outcome, self.reason = outcome, reason

    def needs_run(self, image_ids: frozenset[int]) -> bool:
        """Returns whether a round has pending images, or the report of a whole run is missing.

        Raises:
            SetupError: if the folder holds another run, or cannot be read.
        """
        results = read_round(self.folder, self.point.config, self.inputs, image_ids)
        if results.ledger.open_images:
            return True
        try:
            report = RunReport.load(self.folder)
        except SetupError:
            return True
        return self._is_whole(image_ids) and not report.is_usable

    def run(self, image_ids: frozenset[int], on_progress: Watch) -> None:
        """Evaluates the pending images of a round in the point's run folder.

        Raises:
            PoseEvalError: as `evaluation.evaluate` does.
        """
        inputs = replace(self.inputs, session_ids=image_ids)
        config = self.point.config
        evaluate_on(open_engine(config), config, inputs, self.folder, on_progress)

    def read(self, image_ids: frozenset[int], per: Per) -> None:
        """Reads the figures of a round, which has been run.

        Args:
            image_ids: ids of the images of the round.
            per: returns images per joule and per unit of the price; see `SweepPlan.per`.

        Raises:
            SetupError: if the folder cannot be read.
            ExecutionError: if more images failed than are allowed.
        """
        report = RunReport.load(self.folder)
        if len(report.failures) > report.failures_allowed:
            first = report.failures[0]
            raise ExecutionError(
                f"{len(report.failures)} images failed, the first of them {first.file_name}: "
                f"{first.reason}"
            )
        results = read_round(self.folder, self.point.config, self.inputs, image_ids)
        figures = figures_of(results, self.inputs, image_ids)
        if figures:
            ap = report.ap["AP"] if report.ap and self._is_whole(image_ids) else figures.ap
            figures = replace(figures, ap=ap, per=per(self.point, figures.images_per_s, report))
        self.report, self.figures = report, figures

    @property
    def record(self) -> PointRecord:
        """The record of the point as it is now."""
        report, figures = self.report, self.figures
        return PointRecord(
            name=self.point.name,
            label=self.label,
            settings=self.point.settings,
            outcome=self.outcome,
            reason=self.reason,
            images=figures.images if figures else 0,
            evaluated=sum(device.images for device in report.devices) if report else 0,
            input=str(self.inputs.selection.input_size),
            precision=report.precision if report else "",
            backend=report.backend if report else "",
            ap=figures.ap if figures else None,
            ap_interval=figures.ap_interval if figures else None,
            images_per_s=figures.images_per_s if figures else None,
            rate_interval=figures.rate_interval if figures else None,
            images_per_joule=figures.per.get("images_per_joule") if figures else None,
            images_per_cost=figures.per.get("images_per_cost") if figures else None,
        )

    def _is_whole(self, image_ids: frozenset[int]) -> bool:
        return len(image_ids) == len(self.inputs.index.images)


def candidate(
    point: SweepPoint, suffix: str, folder: Location, config_file: Path | None
) -> Candidate:
    """Returns a point at the start of a sweep.

    Raises:
        ConfigError: if its settings are impossible together.
        SetupError: if they are impossible with the model or on this machine.
    """
    inputs = read_inputs(point.config, config_file)
    check_computes(inputs.selection)
    return Candidate(point=point, suffix=suffix, folder=folder, inputs=inputs)
