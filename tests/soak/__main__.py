"""`python -m tests.soak --seed 0 --faults 1000`: faults of all kinds, and what becomes of runs.

Exits 1 if a run loses, doubles or changes a result, hangs, or ends as it should not.
"""

import argparse
import os
import platform
import shlex
import sys

from tests.soak.campaign import KINDS, commit, outcomes, planned, runs, table


def main() -> int:
    options = _options()
    if options.raw:
        return _raw(options)
    found = []
    for outcome in outcomes(planned(options.faults, options.only), options.seed):
        found.append(outcome)
        if options.verbose or not outcome.is_well:
            print(outcome.to_json(), flush=True)  # noqa: T201
    command = f"python -m tests.soak --seed {options.seed} --faults {options.faults}"
    command += f" --only {shlex.quote(options.only)}" if options.only else ""
    print(f"\n`{command}`, commit {commit()}, {platform.machine()}\n\n{table(found)}")  # noqa: T201
    return int(not all(one.is_well for one in found))


def _raw(options: argparse.Namespace) -> int:
    """Prints a line for each run of one kind."""
    for outcome in runs(options.only, options.seed, options.faults):
        print(outcome.to_json(), flush=True)  # noqa: T201
        if outcome.hangs:
            # It goes on in its thread, which would hold this process.
            os._exit(0)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--only", default="", choices=("", *KINDS), metavar="KIND")
    parser.add_argument("--verbose", action="store_true", help="a line for each run")
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
