"""Disturbed runs, and how each compares with one that nothing disturbed."""

import faulthandler
import json
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread
from threading import enumerate as live_threads
from typing import NamedTuple

from distributed_pose.demo.dataset import write_dataset
from distributed_pose.evaluation import evaluate
from distributed_pose.report.run_report import RunReport
from distributed_pose.run.ledger_entries import read_entries, read_entry_file
from tests.conftest import Dataset

# The results in a report, which do not depend on who computed them and how often it was tried.
_RESULTS = (
    *("complete", "partial_by_choice", "num_images", "num_detections", "failures", "damaged"),
    *("failures_allowed", "ap", "unscored", "profile", "precision", "backend", "data", "model"),
)


_THREAD = "soaked run"
_SHOWN = 2000


class Part(NamedTuple):
    """Faults of one kind that a process is to cause.

    Attributes:
        faults: number of them.
        first: number of the first run; runs before it have been made by another process.
    """

    faults: int
    first: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a disturbed run.

    Attributes:
        kind: of its faults.
        number: of the run among those of its kind.
        faults: that are known to have happened.
        lost: images without a result.
        twice: images that were counted more than once.
        changed: images whose detections differ, and results of the report that do.
        hangs: 1 if the run took longer than its limit.
        seconds: that it took.
        problems: what else should not be.
        phases: how many faults met which phase of a run, where that is known.
    """

    kind: str
    number: int
    faults: int
    lost: int = 0
    twice: int = 0
    changed: int = 0
    hangs: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    phases: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        """Whether the run ended as one that nothing disturbed."""
        return not (self.lost or self.twice or self.changed or self.hangs or self.problems)

    def to_json(self) -> str:
        """Returns the outcome as one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Scenery:
    """A dataset, and what an undisturbed run makes of it.

    Attributes:
        dataset: a dozen rendered images, listed many times.
        folder: for the files of runs.
        undisturbed: folder of the run that nothing disturbed.
    """

    dataset: Dataset
    folder: Path
    undisturbed: Path

    @property
    def num_images(self) -> int:
        """Images of the dataset."""
        return len(self.dataset.records())


def scenery(folder: Path, times: int) -> Scenery:
    """Returns a dataset of twelve times so many images, evaluated once."""
    written = write_dataset(folder / "people", num_images=12, seed=7)
    dataset = Dataset(written.images, written.annotations).times(times, folder)
    evaluate(dataset.config(backend="simulated"), folder / "undisturbed")
    return Scenery(dataset, folder, folder / "undisturbed")


@dataclass(frozen=True)
class Verdict:
    """How the files of a run differ from those of the undisturbed one.

    Attributes:
        lost: images without a result.
        twice: images that were counted more than once.
        changed: images with other detections, results of the report that are others, and 1 for any
            other difference between the bytes of `detections.json`.
    """

    lost: int
    twice: int
    changed: int


def compare(there: Scenery, output: Path) -> Verdict:
    """Returns how a run that is complete differs from the undisturbed one."""
    settled = Counter(settled_ids(output))
    before, after = _people(there.undisturbed), _people(output)
    expected = {image.image_id for image in there.dataset.records()}
    lost = expected - settled.keys()
    twice = {i for i, number in settled.items() if number > 1}
    twice |= {i for i, rows in after.items() if _repeats(rows, before.get(i, []))}
    changed = {i for i in before.keys() | after if before.get(i) != after.get(i)} - lost - twice
    reports = [json.loads((f / "report.json").read_bytes()) for f in (there.undisturbed, output)]
    others = sum(reports[0][key] != reports[1][key] for key in _RESULTS)
    contents = {(f / "detections.json").read_bytes() for f in (there.undisturbed, output)}
    if len(contents) > 1 and not (lost or twice or changed):
        others += 1
    return Verdict(len(lost), len(twice), len(changed) + others)


def settled_ids(output: Path) -> list[int]:
    """Returns the images that a run's ledger has, as often as it has them."""
    ids: list[int] = []
    for path in sorted((output / "ledger").glob("*.arrow")):
        # One that a kill has cut short counts as little as for the run.
        with suppress(ValueError):
            for entry in read_entries(*read_entry_file(path.read_bytes())):
                ids += entry.result.image_ids
    return ids


def in_time(run: Callable[[], RunReport], limit_s: float) -> RunReport | BaseException | None:
    """Returns the report of a run, what it raised, or None if it is not done in time.

    What hangs goes on in its thread, and the process should end soon.
    """
    ends: list[RunReport | BaseException] = []

    def keep() -> None:
        try:
            ends.append(run())
        # Whatever it is, it is what the run came to.
        except BaseException as error:  # noqa: BLE001
            ends.append(error)

    thread = Thread(target=keep, daemon=True, name=_THREAD)
    thread.start()
    thread.join(limit_s)
    return ends[0] if ends else None


def is_held() -> bool:
    """Returns whether a run that is not done in time goes on in this process."""
    return any(thread.name == _THREAD for thread in live_threads())


def outcome_of(
    kind: str,
    number: int,
    there: Scenery,
    output: Path,
    end: RunReport | BaseException | None,
    faults: int,
    seconds: float,
) -> Outcome:
    """Returns the outcome of a run that should have come to its end, as `in_time` gives it."""
    known = Outcome(kind, number, faults, seconds=seconds)
    if end is None:
        faulthandler.dump_traceback(file=sys.stderr)
        return replace(known, hangs=1)
    if isinstance(end, BaseException):
        return replace(known, problems=(f"{type(end).__name__}: {end}",))
    return replace(known, **asdict(compare(there, output)))


def kept(kind: str, number: int, run: Callable[[], Outcome]) -> Outcome:
    """Returns the outcome of a run, or one with the traceback if the run or its check breaks."""
    try:
        return run()
    # Whatever it is, the other runs go on.
    except Exception:  # noqa: BLE001
        return Outcome(kind, number, 0, problems=(traceback.format_exc()[-_SHOWN:],))


def until(kind: str, part: Part, run: Callable[[int, int], Outcome]) -> Iterator[Outcome]:
    """Yields the outcomes of runs until there have been so many faults of a kind.

    Args:
        kind: of the faults.
        part: how many are wanted, and the number of the first run.
        run: takes the number of the run and how many faults are left.
    """
    left, number = part
    while left > 0:
        outcome = kept(kind, number, partial(run, number, left))
        yield outcome
        left -= max(1, outcome.faults)
        number += 1


def _people(output: Path) -> dict[int, list[str]]:
    """Returns the detections of a run by image."""
    people: dict[int, list[str]] = defaultdict(list)
    for row in json.loads((output / "detections.json").read_bytes()):
        people[row["image_id"]].append(json.dumps(row))
    return people


def _repeats(rows: list[str], before: list[str]) -> bool:
    return len(rows) > len(before) and set(rows) == set(before)
