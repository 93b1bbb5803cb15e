"""`python -m tests.hostile --seed 0 --cases 1000`: hostile files, and what becomes of them.

Exits 1 if a case ends as none should.
"""

import argparse
import platform
import subprocess
import sys
from pathlib import Path

from tests.hostile.campaign import KINDS, Outcome, outcomes, planned, table


def main() -> int:
    options = _options()
    plan = [one for one in planned(options.seed, options.cases) if _is_wanted(one[0], options)]
    found: list[Outcome] = []
    for outcome in outcomes(plan, options.keep):
        found.append(outcome)
        if outcome.problems or options.verbose:
            said = outcome.ending.err.strip().partition("\n")[0][:160]
            problems = "; ".join(outcome.problems) or outcome.what
            print(f"{outcome.label} {outcome.case.name}: {problems} | {said!r}", flush=True)  # noqa: T201
    command = f"python -m tests.hostile --seed {options.seed} --cases {options.cases}"
    print(f"\n`{command}`, commit {_commit()}, {platform.machine()}\n\n{table(found)}")  # noqa: T201
    return int(any(one.problems for one in found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--only", default="", help=f"a kind ({', '.join(KINDS)}), or one case")
    parser.add_argument("--keep", type=Path, help="folder for the files of cases with problems")
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    return parser.parse_args()


def _is_wanted(label: str, options: argparse.Namespace) -> bool:
    return label == options.only or label.startswith(f"{options.only}/") or not options.only


def _commit() -> str:
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
