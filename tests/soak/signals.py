"""`python -m tests.soak.signals [inline] [ray]`: how soon a signal ends a run in each phase.

Exits 1 if a run takes over 5 s, ends with another code than 4, or prints a traceback. Exit code 0
is that of a run which was done before the signal.
"""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.int8_models import small_network
from tests.soak.commands import Command, Way, is_result
from tests.soak.runs import Scenery, scenery, settled_ids

_PHASES = ("start", "compile", "warm-up", "run", "scoring", "writing")

_TIMES = 20
_SHOWN = 2000
_MODEL = "small.onnx"

# Twice the time after which a run is stopped that compiles; the whole takes longer.
_COMPILE_S = 6.0
_LIMIT_S = 5.0
_HANG_S = 60.0
_POLL_S = 0.005

_SIGNALS: Mapping[str, Callable[[Command], None]] = {
    "Ctrl-C": Command.press_ctrl_c,
    "SIGTERM": lambda command: command.process.send_signal(signal.SIGTERM),
}


class _Run:
    """A run that is to be stopped.

    Args:
        there: dataset of the run.
        engine: `inline` or `ray`.
        phase: phase in which it is stopped; empty for an undisturbed run.
    """

    def __init__(self, there: Scenery, engine: str, phase: str) -> None:
        self._there, self._engine, self._phase = there, engine, phase
        self._output = there.folder / "run"
        shutil.rmtree(self._output, ignore_errors=True)

    def command(self) -> Command:
        """Starts the command."""
        keys = Way(self._engine, 1, 4, "maps").keys()
        environment = {}
        if self._phase == "compile":
            # The cache is new, and only this model takes seconds to compile.
            keys = (
                *keys[:3],
                "backend=openvino",
                "precision=int8",
                f"model.path={self._there.folder / _MODEL}",
            )
            cache = self._there.folder / "cache"
            shutil.rmtree(cache, ignore_errors=True)
            environment = {"XDG_CACHE_HOME": str(cache)}
        return Command(self._there, self._output, keys, environment)

    def wait(self, command: Command, phase: str) -> None:
        """Returns when a phase has begun, or the run has ended."""
        while not self._has_begun(command, phase) and command.process.poll() is None:
            time.sleep(_POLL_S)

    def _has_begun(self, command: Command, phase: str) -> bool:
        if phase in {"compile", "warm-up"}:
            is_claimed = (self._output / "ledger").exists()
            return is_claimed and (self._engine == "inline" or command.has_worker())
        if phase == "writing":
            return any(is_result(path) for path in self._output.glob("*"))
        if phase == "start":
            return command.is_watched()
        needed = {"run": 1, "scoring": self._there.num_images}[phase]
        return len(settled_ids(self._output)) >= needed


class _End(NamedTuple):
    """How a run ended by a signal.

    Attributes:
        seconds: from the signal to the end.
        code: exit code; None if it hung.
        said: what it has printed on stderr.
    """

    seconds: float
    code: int | None
    said: str

    @property
    def is_well(self) -> bool:
        """Whether the run ended as it should, or was done before the signal."""
        return self.seconds <= _LIMIT_S and self.code in {0, 4} and "Traceback" not in self.said

    @property
    def _is_resumable(self) -> bool:
        last = self.said.strip().rpartition("\n")[2]
        return self.code == 4 and "resume with: " in last

    def __str__(self) -> str:
        said = ", resumable" if self._is_resumable else ""
        wrong = "" if self.is_well else f": {self.said[-_SHOWN:]!r}"
        return f"{self.seconds:.1f} s, exit {self.code}{said}{wrong}"


def main() -> int:
    is_well = True
    with TemporaryDirectory(prefix="soak-") as folder:
        there = scenery(Path(folder), _TIMES)
        (there.folder / _MODEL).write_bytes(small_network())
        for engine in sys.argv[1:] or ("inline", "ray"):
            usual_s = _usual_s(there, engine)
            for phase in _PHASES:
                ends = [_stopped(there, engine, phase, usual_s[phase], name) for name in _SIGNALS]
                is_well &= all(end.is_well for end in ends)
                cells = [engine, phase, *(str(end) for end in ends)]
                print(f"| {' | '.join(cells)} |", flush=True)  # noqa: T201
    return int(not is_well)


def _usual_s(there: Scenery, engine: str) -> dict[str, float]:
    """Returns how long each phase of an undisturbed run takes."""
    run = _Run(there, engine, "")
    began = {}
    with run.command() as command:
        for phase in _PHASES:
            run.wait(command, phase)
            began[phase] = time.monotonic()
        if command.process.wait():
            raise RuntimeError(command.said())
        ends = [*[*began.values()][1:], time.monotonic()]
    usual_s = {phase: end - began[phase] for phase, end in zip(began, ends, strict=True)}
    return {**usual_s, "compile": _COMPILE_S}


def _stopped(there: Scenery, engine: str, phase: str, usual_s: float, name: str) -> _End:
    """Returns the end of a run that gets a signal in the middle of a phase."""
    run = _Run(there, engine, phase)
    with run.command() as command:
        run.wait(command, phase)
        # The last phases take milliseconds.
        time.sleep(0.0 if phase in {"scoring", "writing"} else usual_s / 2)
        start = time.monotonic()
        _SIGNALS[name](command)
        code = command.end(_HANG_S)
        seconds = time.monotonic() - start
        said = command.said() if code is not None else command.stacks()
        return _End(seconds, code, said)


if __name__ == "__main__":
    sys.exit(main())
