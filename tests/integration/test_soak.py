"""Faults of the kinds in `tests/soak` change no result."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.campaign import KINDS, left_after, planned, table
from tests.soak.runs import Outcome, Part, Verdict, compare, scenery, settled_ids, until

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_sixty_faults_of_all_kinds_lose_double_and_change_nothing() -> None:
    command = [sys.executable, "-m", "tests.soak", "--seed", "2", "--faults", "60"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"| {kind} |" in done.stdout for kind in (*KINDS, "all"))


def test_a_plan_has_each_kind_and_as_many_faults_as_were_asked_for() -> None:
    assert planned(1000, None).keys() == {*KINDS}
    assert sum(planned(1000, None).values()) >= 1000
    assert min(planned(10, None).values()) == 1
    assert planned(7, ["disk full"]) == {"disk full": 7}


def test_a_run_that_breaks_is_shown_with_its_traceback_and_the_others_follow() -> None:
    def run(number: int, left: int) -> Outcome:
        if number == 4:
            raise ValueError("no such process")
        return Outcome("head dies", number, min(2, left))

    broken, *others = until("head dies", Part(4, first=4), run)
    assert "ValueError: no such process" in broken.problems[0]
    assert not broken.is_well
    assert [(one.number, one.faults) for one in others] == [(5, 2), (6, 1)]


def test_after_a_run_that_hangs_the_rest_of_its_group_is_left() -> None:
    plan = {"head dies": Part(2), "driver killed": Part(5, first=3)}
    left = left_after(plan, Outcome("driver killed", 3, 0, hangs=1))
    assert left == {"head dies": Part(2), "driver killed": Part(4, first=4)}
    left = left_after(left, Outcome("head dies", 0, 2))
    assert left == {"driver killed": Part(4, first=4)}
    # The fault has missed this run.
    assert left_after(left, Outcome("driver killed", 4, 0)) == {"driver killed": Part(4, first=5)}


def test_what_is_lost_counted_twice_or_changed_in_a_run_is_found(tmp_path: Path) -> None:
    there = scenery(tmp_path, 2)
    first, *_ = sorted((there.undisturbed / "ledger").glob("*.arrow"))

    def copy(name: str) -> Path:
        return Path(shutil.copytree(there.undisturbed, tmp_path / name))

    assert compare(there, copy("same")) == Verdict(0, 0, 0)
    lost = copy("lost")
    (lost / "ledger" / first.name).unlink()
    number = there.num_images - len(settled_ids(lost))
    assert number > 0
    assert compare(there, lost).lost == number
    twice = copy("twice")
    (twice / "ledger" / "again.arrow").write_bytes(first.read_bytes())
    assert compare(there, twice) == Verdict(0, number, 0)
    changed = copy("changed")
    detections = json.loads((changed / "detections.json").read_bytes())
    detections[3]["score"] /= 2
    (changed / "detections.json").write_text(json.dumps(detections))
    assert compare(there, changed) == Verdict(0, 0, 1)


def test_the_table_has_a_row_for_each_kind_that_ran_and_their_sums() -> None:
    found = [
        Outcome("driver killed", 0, 1, lost=2, seconds=3.2, phases={"run": 1}),
        Outcome("driver killed", 1, 1, seconds=1.0, problems=("a",), phases={"writing": 1}),
        Outcome("disk full", 0, 8, hangs=1, seconds=9.7),
    ]
    text = table(found)
    assert "| disk full | 8 | 1 | 0 | 0 | 0 | 1 | 0 | 10 |" in text
    assert "| all | 10 | 3 | 2 | 0 | 0 | 1 | 1 | 10 |" in text
    assert "1 in run, 1 in writing" in text
