"""The command and its Ray, killed or stopped at any time, and the run resumed in another way.

Each fault has a run of its own: the command is started, disturbed, and given again with another
engine, other devices or another batch size, which must bring it to its end.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

from tests.soak.commands import PHASES, Command, Usual, Way, is_result, usual_run
from tests.soak.runs import Outcome, Scenery, compare, settled_ids

# A run whose head is gone may last so long; see docs/explanation/faults.md.
_LOST_S = 60.0

# Engines of a run that is killed and of the session that ends it. Ray takes seconds to start.
_ENGINES = (("inline", "inline"), ("inline", "inline"), ("inline", "ray"), ("ray", "inline"))

# How the Ray of a run is disturbed: the process and its signal.
_RAYS = {
    "head dies": ("gcs_server", signal.SIGKILL),
    "head hangs": ("gcs_server", signal.SIGSTOP),
    "driver's node dies": ("raylet", signal.SIGKILL),
    "driver's node hangs": ("raylet", signal.SIGSTOP),
}
RAY_KINDS = tuple(_RAYS)


def killed_runs(kind: str, there: Scenery, seed: int, faults: int) -> Iterator[Outcome]:
    """Yields runs whose driver was killed with all of its process group, and which went on."""
    usual = {engine: usual_run(there, engine) for engine in ("inline", "ray")}

    def run(number: int) -> Outcome:
        # Evenly over the phases, and within each by the golden section.
        phase, share = PHASES[number % len(PHASES)], number // len(PHASES) * 0.618034 % 1
        random = Random(f"{seed} {kind} {number}")
        engine, other = random.choice(_ENGINES)
        output = there.folder / f"killed-{number}"
        way = Way.drawn(random, engine)
        with Command(there, output, way) as command:
            command.wait_for(phase)
            time.sleep(share * usual[engine].phases_s[phase])
            is_done = command.process.poll() is not None or (output / "report.json").exists()
            os.killpg(command.process.pid, signal.SIGKILL)
            problems = command.left_behind()
        met = {} if is_done else {_phase_met(there, output): 1}
        outcome = _resumed(kind, number, there, output, Way.drawn(random, other, way), usual)
        return replace(
            outcome, faults=len(met), phases=met, problems=(*problems, *outcome.problems)
        )

    yield from _in_pairs(run, faults)


def stopped_runs(kind: str, there: Scenery, seed: int, faults: int) -> Iterator[Outcome]:
    """Yields runs that got Ctrl-C or SIGTERM in any phase, with the seconds until they ended."""
    usual = {engine: usual_run(there, engine) for engine in ("inline", "ray")}

    def run(number: int) -> Outcome:
        phase, share = PHASES[number % len(PHASES)], number // len(PHASES) * 0.618034 % 1
        random = Random(f"{seed} {kind} {number}")
        output = there.folder / f"stopped-{number}"
        with Command(there, output, Way.drawn(random, "ray")) as command:
            command.wait_for(phase)
            time.sleep(share * usual["ray"].phases_s[phase])
            is_done = command.process.poll() is not None
            start = time.monotonic()
            command.process.send_signal(random.choice((signal.SIGINT, signal.SIGTERM)))
            code = command.end(_LOST_S)
            seconds = time.monotonic() - start
            problems = _wrong_end(code, command.said())
        met = {} if is_done else {_phase_met(there, output): 1}
        outcome = _resumed(kind, number, there, output, Way.drawn(random, "inline"), usual)
        return replace(
            outcome,
            faults=len(met),
            phases=met,
            hangs=outcome.hangs + (code is None),
            seconds=seconds,
            problems=(*problems, *outcome.problems),
        )

    yield from _in_pairs(run, faults)


def ray_runs(kind: str, there: Scenery, seed: int, faults: int) -> Iterator[Outcome]:
    """Yields runs whose Ray was disturbed at any time, and which were resumed."""
    usual = {engine: usual_run(there, engine) for engine in ("inline", "ray")}
    name, number_of_signal = _RAYS[kind]

    def run(number: int) -> Outcome:
        random = Random(f"{seed} {kind} {number}")
        output = there.folder / f"{kind.replace(' ', '-')}-{number}"
        start = time.monotonic()
        with Command(there, output, Way.drawn(random, "ray")) as command:
            time.sleep(random.uniform(0.2, 1.0) * usual["ray"].seconds)
            victim = command.ray_process(name)
            if victim:
                victim.send_signal(number_of_signal)
            code = command.end(10 * usual["ray"].seconds + _LOST_S)
            seconds = time.monotonic() - start
            problems = _wrong_end(code, command.said())
        outcome = _resumed(kind, number, there, output, Way.drawn(random, "inline"), usual)
        return replace(
            outcome,
            faults=int(victim is not None),
            hangs=outcome.hangs + (code is None),
            seconds=max(seconds, outcome.seconds),
            problems=(*problems, *outcome.problems),
        )

    yield from _in_pairs(run, faults)


def _wrong_end(code: int | None, said: str) -> tuple[str, ...]:
    """Returns what is wrong with the end of a command whose Ray is gone."""
    problems = []
    if code not in {0, 3, 4, None}:
        problems.append(f"exit code {code}")
    if code in {3, 4} and "error: " not in said.strip().rpartition("\n")[2]:
        problems.append(f"exit code {code}, and its last word is {said[-300:]!r}")
    if "Traceback" in said:
        problems.append(said[-1000:])
    return tuple(problems)


def _resumed(
    kind: str, number: int, there: Scenery, output: Path, way: Way, usual: dict[str, Usual]
) -> Outcome:
    """Returns the outcome of a run that is given again, and should come to its end."""
    start = time.monotonic()
    with Command(there, output, way) as command:
        code = command.end(10 * usual[way.engine].seconds)
        known = Outcome(kind, number, 0, seconds=time.monotonic() - start)
        if code is None:
            return replace(known, hangs=1)
        if code:
            return replace(known, problems=(f"exit code {code}: {command.said()[-500:]}",))
    return replace(known, **asdict(compare(there, output)))


def _phase_met(there: Scenery, output: Path) -> str:
    """Returns the phase in which a run was killed, by what it has left."""
    if any(is_result(path) for path in output.glob("*")):
        return "writing"
    settled = len(settled_ids(output))
    return "scoring" if settled == there.num_images else "run" if settled else "start"


def _in_pairs(run: Callable[[int], Outcome], faults: int) -> Iterator[Outcome]:
    """Yields outcomes until there were so many faults, two at a time; most of a run is waiting."""
    done = number = 0
    with ThreadPoolExecutor(2) as threads:
        while done < faults:
            count = min(8, faults - done)
            for outcome in threads.map(run, range(number, number + count)):
                done += outcome.faults
                yield outcome
            number += count
