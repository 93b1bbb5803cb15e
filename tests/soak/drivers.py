"""The command and its Ray, killed or stopped at any time, and the run resumed in another way.

Each fault has a run of its own: the command is started, disturbed, and given again with another
engine, other devices and another batch size, which must bring it to its end.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryFile, mkdtemp
from types import TracebackType
from typing import NamedTuple, Self

import psutil

from distributed_pose.files import PARTIAL_PREFIX
from distributed_pose.report.run_report import DETECTIONS
from tests.soak.runs import Outcome, Scenery, compare, settled_ids

_COMMAND = Path(sys.executable).with_name("distributed-pose")
_RATE = 60.0
_POLL_S = 5e-4

# A process that was killed, and what the system has to clean up after it.
_GONE_S = 15.0

# A run whose head is gone may last so long; see docs/explanation/faults.md.
_LOST_S = 60.0

# Engines of a run that is killed and of the session that ends it. Ray takes seconds to start.
_ENGINES = (("inline", "inline"), ("inline", "inline"), ("inline", "ray"), ("ray", "inline"))

# Phases of a run, in their order, and how the files of its folder tell them.
PHASES = ("start", "run", "scoring", "writing")

# How the Ray of a run is disturbed: the process and its signal.
_RAYS = {
    "head dies": ("gcs_server", signal.SIGKILL),
    "head hangs": ("gcs_server", signal.SIGSTOP),
    "driver's node dies": ("raylet", signal.SIGKILL),
    "driver's node hangs": ("raylet", signal.SIGSTOP),
}
RAY_KINDS = tuple(_RAYS)


class Way(NamedTuple):
    """How a run computes, on which its results do not depend.

    Attributes:
        engine: `inline` or `ray`.
        devices: CPUs.
        batch_size: images.
        gather: what the workers answer with.
    """

    engine: str
    devices: int
    batch_size: int
    gather: str

    @classmethod
    def drawn(cls, random: Random, engine: str, before: "Way | None" = None) -> "Way":
        """Returns one of the ways with an engine, with another batch size than one before."""
        sizes = [size for size in (1, 2, 3, 4, 8) if not before or size != before.batch_size]
        batch_size = random.choice(sizes)
        return cls(engine, random.randint(1, 3), batch_size, random.choice(("maps", "poses")))

    def keys(self) -> tuple[str, ...]:
        """Returns the keys that name the way."""
        engine, devices, batch_size, gather = self
        return (
            f"engine={engine}",
            f"devices=cpu:{devices}",
            f"batch_size={batch_size}",
            f"gather={gather}",
        )


class Usual(NamedTuple):
    """An undisturbed run of an engine.

    Attributes:
        phases_s: how long each of `PHASES` took.
        seconds: that it took to its last word.
    """

    phases_s: dict[str, float]
    seconds: float


class Command:
    """The command on a dataset, with a folder for the files of its Ray alone.

    Args:
        there: the dataset.
        output: folder of the run.
        way: how it computes.
    """

    def __init__(self, there: Scenery, output: Path, way: Way) -> None:
        self._output = output
        self._shards = -(-there.num_images // way.batch_size)
        self._rays = Path(mkdtemp(prefix="dp-"))
        self._err = TemporaryFile("w+")  # noqa: SIM115 - it is closed at the exit
        data = {"images": there.dataset.images, "annotations": there.dataset.annotations}
        keys = [f"data.{key}={path}" for key, path in data.items()]
        keys += ["backend=simulated", f"simulated.rate={_RATE}", *way.keys()]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [_COMMAND, "evaluate", "--output", output, *(f"--set={key}" for key in keys)],
            stdout=subprocess.DEVNULL,
            stderr=self._err,
            env={**environment, "RAY_TMPDIR": str(self._rays)},
            start_new_session=True,
        )

    def wait_for(self, phase: str) -> None:
        """Returns when a phase has begun, or the run has ended."""
        while not self._has_begun(phase) and self.process.poll() is None:
            time.sleep(_POLL_S)

    def _has_begun(self, phase: str) -> bool:
        if phase == "writing":
            return any(_is_result(path) for path in self._output.glob("*"))
        needed = {"start": 0, "run": 1, "scoring": self._shards}[phase]
        entries = (self._output / "ledger").glob("*.arrow") if needed else ()
        return len([*entries]) >= needed

    def ray_process(self, name: str) -> psutil.Process | None:
        """Returns a process of its Ray, if it has it now."""
        return next((one for one in self._of_ray() if one.name() == name), None)

    def _of_ray(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(str(self._rays) in word for word in process.cmdline()):
                    found.append(process)
        return found

    def end(self, limit_s: float) -> int | None:
        """Returns its exit code; None if it is not done in time."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(limit_s)
        return None

    def said(self) -> str:
        """Returns what it has printed on stderr."""
        self._err.seek(0)
        return self._err.read()

    def left_behind(self) -> tuple[str, ...]:
        """Returns a line if processes of its Ray outlast it."""
        end = time.monotonic() + _GONE_S
        while (processes := self._of_ray()) and time.monotonic() < end:
            time.sleep(0.2)
        names = {process.name() for process in processes}
        return (f"{len(processes)} processes are left, such as {min(names)}",) if names else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for process in self._of_ray():
            with suppress(psutil.Error):
                process.kill()
        self._err.close()
        shutil.rmtree(self._rays, ignore_errors=True)


def killed_runs(kind: str, there: Scenery, seed: int, faults: int) -> Iterator[Outcome]:
    """Yields runs whose driver was killed with all of its process group, and which went on."""
    usual = {engine: _usual(there, engine) for engine in ("inline", "ray")}

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


def ray_runs(kind: str, there: Scenery, seed: int, faults: int) -> Iterator[Outcome]:
    """Yields runs whose Ray was disturbed at any time, and which were resumed."""
    usual = {engine: _usual(there, engine) for engine in ("inline", "ray")}
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


def _usual(there: Scenery, engine: str) -> Usual:
    """Returns the times of an undisturbed run."""
    output = there.folder / f"usual-{engine}"
    began = {}
    with Command(there, output, Way(engine, 2, 4, "maps")) as command:
        for phase in PHASES:
            command.wait_for(phase)
            began[phase] = time.monotonic()
        while not (output / "report.json").exists():
            time.sleep(_POLL_S)
        times = [*began.values(), time.monotonic()]
        command.process.wait()
        seconds = time.monotonic() - times[0]
    lengths = [later - earlier for earlier, later in pairwise(times)]
    return Usual(dict(zip(PHASES, lengths, strict=True)), seconds)


def _phase_met(there: Scenery, output: Path) -> str:
    """Returns the phase in which a run was killed, by what it has left."""
    if any(_is_result(path) for path in output.glob("*")):
        return "writing"
    settled = len(settled_ids(output))
    return "scoring" if settled == there.num_images else "run" if settled else "start"


def _is_result(path: Path) -> bool:
    """Returns whether a file is a result of a run, or what is to become one."""
    return path.name.startswith((PARTIAL_PREFIX, DETECTIONS))


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
