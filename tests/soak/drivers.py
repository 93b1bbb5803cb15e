"""The command and its Ray, killed or stopped at any time, and the run resumed in another way.

Each fault has a run of its own: the command is started, disturbed, and given again with another
engine, other devices or another batch size, which must bring it to its end.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from tests.soak.commands import PHASES, Command, Usual, Way, is_result, usual_run
from tests.soak.runs import Outcome, Part, Scenery, compare, kept, settled_ids

_AT_ONCE = 3
_SHOWN = 2000

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


@dataclass(frozen=True)
class _Case:
    """A run that is to be disturbed, and resumed in another way.

    Attributes:
        kind: of the fault.
        number: of the run among those of its kind.
        there: the dataset.
        usual: undisturbed runs by engine.
    """

    kind: str
    number: int
    there: Scenery
    usual: Mapping[str, Usual]
    random: Random

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return self.there.folder / f"{self.kind.replace(' ', '-')}-{self.number}"

    @property
    def phase(self) -> str:
        """The phase in which it is disturbed: all of them in turns."""
        return PHASES[self.number % len(PHASES)]

    def command(self, way: Way) -> Command:
        """Starts the command on the run."""
        return Command(self.there, self.output, way.keys())

    def wait(self, command: Command, engine: str) -> None:
        """Waits for a time in the phase, all parts of which come as often: a golden section."""
        command.wait_for(self.phase)
        share = self.number // len(PHASES) * 0.618034 % 1
        time.sleep(share * self.usual[engine].phases_s[self.phase])

    def resumed(self, way: Way) -> Outcome:
        """Returns the outcome of the run after it is given again, and should come to its end."""
        start = time.monotonic()
        with self.command(way) as command:
            code = command.end(10 * self.usual[way.engine].seconds)
            known = Outcome(self.kind, self.number, 0, seconds=time.monotonic() - start)
            if code is None:
                return replace(known, hangs=1, problems=(command.stacks(),))
            if code:
                said = command.said()[-_SHOWN:]
                return replace(known, problems=(f"exit code {code}: {said}",))
        return replace(known, **asdict(compare(self.there, self.output)))


def driver_runs(there: Scenery, seed: int, plan: Mapping[str, Part]) -> Iterator[Outcome]:
    """Yields runs until so many have met each kind of fault, some at a time: most is waiting."""
    usual = {engine: usual_run(there, engine) for engine in ("inline", "ray")}

    def run(kind: str, number: int) -> Outcome:
        case = _Case(kind, number, there, usual, Random(f"{seed} {kind} {number}"))
        return kept(kind, number, partial(_DISTURBED.get(kind, _without_ray), case))

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        left = {kind: part.faults for kind, part in plan.items()}
        numbers = {kind: part.first for kind, part in plan.items()}
        while cases := [(kind, numbers[kind] + i) for kind in left for i in range(left[kind])]:
            for outcome in threads.map(lambda case: run(*case), cases):
                # A run that the fault missed is made again, but not one that broke.
                left[outcome.kind] -= outcome.faults or bool(outcome.problems)
                numbers[outcome.kind] += 1
                yield outcome


def _killed(case: _Case) -> Outcome:
    """Kills the command with all of its process group."""
    engine, other = case.random.choice(_ENGINES)
    way = Way.drawn(case.random, engine)
    with case.command(way) as command:
        case.wait(command, engine)
        is_done = command.process.poll() is not None or (case.output / "report.json").exists()
        with suppress(ProcessLookupError):
            os.killpg(command.process.pid, signal.SIGKILL)
        problems = command.left_behind()
    phases = {} if is_done else {_phase_met(case.there, case.output): 1}
    outcome = case.resumed(Way.drawn(case.random, other, way))
    problems += outcome.problems
    return replace(outcome, faults=len(phases), phases=phases, problems=problems)


def _stopped(case: _Case) -> Outcome:
    """Stops the command as Ctrl-C or a scheduler does; its seconds are those until it has ended."""
    with case.command(Way.drawn(case.random, "ray")) as command:
        case.wait(command, "ray")
        is_done = command.process.poll() is not None
        start = time.monotonic()
        command.process.send_signal(case.random.choice((signal.SIGINT, signal.SIGTERM)))
        code = command.end(_LOST_S)
        seconds = time.monotonic() - start
        problems = _wrong_end(code, command)
    phases = {} if is_done else {case.phase: 1}
    outcome = case.resumed(Way.drawn(case.random, "inline"))
    return replace(
        outcome,
        faults=len(phases),
        phases=phases,
        hangs=outcome.hangs + (code is None),
        seconds=seconds,
        problems=problems + outcome.problems,
    )


def _without_ray(case: _Case) -> Outcome:
    """Disturbs the Ray of the command at any time."""
    name, number = _RAYS[case.kind]
    usual_s = case.usual["ray"].seconds
    start = time.monotonic()
    with case.command(Way.drawn(case.random, "ray")) as command:
        time.sleep(case.random.uniform(0.2, 1.0) * usual_s)
        victim = command.ray_process(name)
        if victim:
            victim.send_signal(number)
        code = command.end(10 * usual_s + _LOST_S)
        seconds = time.monotonic() - start
        problems = _wrong_end(code, command)
    outcome = case.resumed(Way.drawn(case.random, "inline"))
    return replace(
        outcome,
        faults=int(victim is not None),
        hangs=outcome.hangs + (code is None),
        seconds=max(seconds, outcome.seconds),
        problems=problems + outcome.problems,
    )


_DISTURBED = {"driver killed": _killed, "driver stopped": _stopped}
KINDS = (*_RAYS, *_DISTURBED)


def _wrong_end(code: int | None, command: Command) -> tuple[str, ...]:
    """Returns what is wrong with the end of a command whose Ray is gone."""
    if code is None:
        return (command.stacks(),)
    problems, said = [], command.said()
    if code not in {0, 3, 4}:
        problems.append(f"exit code {code}")
    if code in {3, 4} and "error: " not in said.strip().rpartition("\n")[2]:
        problems.append(f"exit code {code}, and its last word is {said[-_SHOWN:]!r}")
    if "Traceback" in said:
        problems.append(said[-_SHOWN:])
    return tuple(problems)


def _phase_met(there: Scenery, output: Path) -> str:
    """Returns the phase in which a run was killed, by what it has left."""
    if any(is_result(path) for path in output.glob("*")):
        return "writing"
    settled = len(settled_ids(output))
    return "scoring" if settled == there.num_images else "run" if settled else "start"
