"""`python -m tests.soak --seed 0 --faults 1000`: faults of all kinds, and what becomes of runs.

Exits 1 if a run loses, doubles or changes a result, hangs, or ends as it should not.
"""

import argparse
import json
import os
import platform
import shlex
import sys

from tests.soak.campaign import GROUPS, HELD, KINDS, commit, outcomes, planned, runs, table
from tests.soak.runs import Part, is_held

_ONLY = f"this kind alone, or several of them: {', '.join(KINDS)}"


def main() -> int:
    options = _options()
    plan = planned(options.faults, options.only)
    if options.group:
        return _run_group(options)
    found = []
    for outcome in outcomes(plan, options.seed):
        found.append(outcome)
        if options.verbose or not outcome.is_well:
            print(outcome.to_json(), flush=True)  # noqa: T201
    command = shlex.join(["python", "-m", "tests.soak", *sys.argv[1:]])
    print(f"\n`{command}`, commit {commit()}, {platform.machine()}\n\n{table(found)}")  # noqa: T201
    return int(not all(one.is_well for one in found))


def _run_group(options: argparse.Namespace) -> int:
    """Prints a line for each run of a group of kinds."""
    plan = {kind: Part(*part) for kind, part in json.loads(options.plan).items()}
    for outcome in runs(options.group, options.seed, plan):
        print(outcome.to_json(), flush=True)  # noqa: T201
        if is_held():
            sys.stderr.flush()
            os._exit(HELD)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--only", action="append", choices=KINDS, metavar="KIND", help=_ONLY)
    parser.add_argument("--verbose", action="store_true", help="a line for each run")
    parser.add_argument("--group", default="", choices=GROUPS, help=argparse.SUPPRESS)
    parser.add_argument("--plan", default="{}", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
