"""Runs a sweep: rounds over more and more images, after which points that cannot win end."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict

from distributed_pose.bench.sweep.candidate import Candidate, candidate
from distributed_pose.bench.sweep.judgement import with_common_spread
from distributed_pose.bench.sweep.outcome import summed_up
from distributed_pose.bench.sweep.plan import SweepPlan, suffixes
from distributed_pose.bench.sweep.points import SweepPoint
from distributed_pose.bench.sweep.record import SWEEP, PointRecord, SweepRecord
from distributed_pose.bench.sweep.rounds import chosen_images, round_sizes
from distributed_pose.bench.sweep.stored import check_owner
from distributed_pose.data.coco import CocoIndex
from distributed_pose.engine.kernels_beside import kernels_compiled_beside
from distributed_pose.errors import ConfigError, ExecutionError, PoseEvalError, SetupError
from distributed_pose.evaluation import Watch, open_engine
from distributed_pose.files.storage import Folder
from distributed_pose.run.inputs import read_dataset
from distributed_pose.run.lock import RunLock
from distributed_pose.run.signals import stopped_by_signals

# Returns a context that shows the progress of a run, given the title of the run.
Watching = Callable[[str], AbstractContextManager[Watch]]


def run_sweep(plan: SweepPlan, watching: Watching) -> SweepRecord:
    """Runs or resumes a sweep, writes its record, and returns it.

    Points run one after another, so that none slows another one down. A point that cannot win ends
    before it has evaluated all images; see `judgement`.

    Args:
        plan: the sweep.
        watching: shows the progress of a run.

    Raises:
        ConfigError: if no point is possible, or the points would run different models.
        SetupError: if no point is possible, the images are not labelled, or the folder holds
            another sweep.
    """
    index = _labelled_dataset(plan)
    folder = Folder(plan.output)
    compiling = kernels_compiled_beside(several_scales=len(plan.config.scales) > 1)
    with stopped_by_signals(), compiling, RunLock(folder):
        sweep = _Sweep(plan, folder, index)
        # An open engine keeps Ray alive. Otherwise each run would start it.
        with open_engine(plan.config):
            return sweep.run(watching)


def _labelled_dataset(plan: SweepPlan) -> CocoIndex:
    index, _, annotations = read_dataset(plan.config)
    if not index.is_labelled:
        raise SetupError(
            f"{annotations} has no annotations, and a sweep weighs AP", "set data.annotations"
        )
    return index


class _Sweep:
    """A sweep that runs.

    Args:
        plan: the sweep.
        folder: folder of the sweep.
        index: dataset of the sweep.
    """

    def __init__(self, plan: SweepPlan, folder: Folder, index: CocoIndex) -> None:
        self._plan, self._folder = plan, folder
        self._image_ids = [image.image_id for image in index.images]
        sizes = round_sizes(len(self._image_ids))
        self._rounds = sizes if plan.ends_early else sizes[-1:]
        self._suffixes = suffixes(plan.points)
        self._impossible: dict[str, PoseEvalError] = {}
        self._candidates = {
            point.name: one for point in plan.points if (one := self._opened(point))
        }
        self._check_possible()
        self._identity = _shared_identity([*self._candidates.values()])
        check_owner(folder, self._identity)

    def run(self, watching: Watching) -> SweepRecord:
        """Runs all rounds, and returns the record."""
        self._write()
        for number, size in enumerate(self._rounds, 1):
            image_ids = chosen_images(self._image_ids, size)
            # Every other round runs backwards, so that a machine that slows down favours no point.
            for one in self._pending[:: 1 if number % 2 else -1]:
                title = f"round {number} of {len(self._rounds)}, {size} images, {one.label}"
                self._run_round(one, image_ids, watching, title)
            self._share_spread()
            if size < self._rounds[-1]:
                self._end_points()
            self._write()
        for one in self._pending:
            one.end("finished")
        return self._write(complete=True)

    @property
    def _pending(self) -> list[Candidate]:
        return [one for one in self._candidates.values() if one.is_pending]

    def _check_possible(self) -> None:
        """Checks that some points are possible.

        Raises:
            ConfigError: if none is, for the reason of the first point.
            SetupError: likewise.
        """
        if len(self._impossible) == len(self._plan.points):
            raise next(iter(self._impossible.values()))

    def _opened(self, point: SweepPoint) -> Candidate | None:
        folder = self._plan.folder(point)
        try:
            return candidate(point, self._suffixes[point.name], folder, self._plan.config_file)
        except (ConfigError, SetupError) as error:
            self._impossible[point.name] = error
            return None

    def _run_round(
        self,
        one: Candidate,
        image_ids: frozenset[int],
        watching: Watching,
        title: str,
    ) -> None:
        """Runs a round of a point; an error ends the point, and not the sweep."""
        try:
            if one.needs_run(image_ids):
                with watching(title) as on_progress:
                    one.run(image_ids, on_progress)
            one.read(image_ids, self._plan.per)
        except (ConfigError, SetupError) as error:
            one.end("impossible", str(error))
            self._impossible[one.point.name] = error
            self._check_possible()
        except ExecutionError as error:
            one.end("failed", str(error))

    def _share_spread(self) -> None:
        known = [(one, figures) for one in self._candidates.values() if (figures := one.figures)]
        shared = with_common_spread([figures for _, figures in known])
        for (one, _), figures in zip(known, shared, strict=True):
            one.figures = figures

    def _end_points(self) -> None:
        """Ends the points that cannot win, all by the same figures."""
        known = [(one, figures) for one in self._pending if (figures := one.figures)]
        judge = self._plan.judge(len(self._candidates), len(self._rounds) - 1)
        reasons = []
        for one, figures in known:
            others = [(other.label, theirs) for other, theirs in known if other is not one]
            reasons.append(judge.reason_to_end(figures, others))
        for (one, figures), reason in zip(known, reasons, strict=True):
            if reason:
                one.end("ended", f"after {figures.images} images: {reason}")

    def _write(self, *, complete: bool = False) -> SweepRecord:
        records = [self._record(point) for point in self._plan.points]
        record = summed_up(self._plan, self._identity, self._rounds, records, complete=complete)
        self._folder.write(SWEEP, json.dumps(asdict(record), indent=2, allow_nan=False) + "\n")
        return record

    def _record(self, point: SweepPoint) -> PointRecord:
        if one := self._candidates.get(point.name):
            return one.record
        given = point.settings
        return PointRecord(
            name=point.name,
            label=f"{given['input']} {given['precision']}{self._suffixes[point.name]}",
            settings=given,
            outcome="impossible",
            reason=str(self._impossible[point.name]),
        )


def _shared_identity(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Returns the digests and settings that all points share.

    Raises:
        ConfigError: if points differ in them.
    """
    first = candidates[0]
    for one in candidates[1:]:
        if names := [name for name, text in one.identity.items() if text != first.identity[name]]:
            raise ConfigError(
                f"the points {first.label} and {one.label} differ in {', '.join(names)}",
                "sweep over backends that run the same model",
            )
    return first.identity
