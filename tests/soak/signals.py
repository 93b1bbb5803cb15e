"""`python -m tests.soak.signals [inline] [ray]`: how soon a run ends by Ctrl-C and SIGTERM in each phase.

Exits 1 if a run takes over 5 s, ends with another code than 4, or does not print the command that
resumes it.
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
from tests.soak.commands import Command, is_result
from tests.soak.runs import Scenery, scenery, settled_ids

_TIMES = 5
_LIMIT_S = 5.0
_HANG_S = 60.0
_POLL_S = 0.005

_SIGNALS: Mapping[str, Callable[[Command], None]] = {
    "Ctrl-C": Command.press_ctrl_c,
    "SIGTERM": lambda command: command.process.send_signal(signal.SIGTERM),
}


class _Run:
    """A run on a model that is compiled, with a cache of its own.

    Args:
        there: dataset of the run.
        engine: `inline` or `ray`.
        kernels: folder of a cache from which compiled kernels are taken.
    """

    def __init__(self, there: Scenery, engine: str, kernels: Path) -> None:
        self.engine, self._there = engine, there
        self.output, self.cache = there.folder / "run", there.folder / "cache"
        for folder in (self.output, self.cache):
            shutil.rmtree(folder, ignore_errors=True)
        if kernels.exists():
            shutil.copytree(kernels, self.cache / "distributed_pose" / "kernels")

    def command(self) -> Command:
        """Starts the command."""
        keys = [
            f"engine={self.engine}",
            f"model.path={self._there.folder / 'small.onnx'}",
            "backend=openvino",
            "precision=int8",
            "devices=cpu:1",
            "batch_size=4",
        ]
        return Command(self._there, self.output, keys, {"XDG_CACHE_HOME": str(self.cache)})

    def has_begun(self, phase: str, command: Command) -> bool:
        """Returns whether a phase has begun."""
        return _PHASES[phase](self, command)

    def has_started(self, command: Command) -> bool:
        """Returns whether the command has begun, and Ray has started the worker."""
        begun = self.engine == "inline" or command.has_worker()
        return begun and (self.output / "ledger").exists()

    def has_artifact(self, _: Command) -> bool:
        """Returns whether the model is compiled."""
        return any(self.cache.glob("distributed_pose/models/*"))

    def has_results(self, number: int) -> bool:
        """Returns whether so many images have a result."""
        return len(settled_ids(self.output)) >= number

    def writes(self, _: Command) -> bool:
        """Returns whether the results are being written."""
        return any(is_result(path) for path in self.output.glob("*"))

    def has_all_results(self, _: Command) -> bool:
        """Returns whether all images have a result."""
        return self.has_results(self._there.num_images)


# Phases in their order, with the function that says whether each has begun.
_PHASES: Mapping[str, Callable[[_Run, Command], bool]] = {
    "start": lambda _run, _command: True,
    "compile": _Run.has_started,
    "warm-up": _Run.has_artifact,
    "run": lambda run, _command: run.has_results(1),
    "scoring": _Run.has_all_results,
    "writing": _Run.writes,
}


class _End(NamedTuple):
    """How a run ended by a signal.

    Attributes:
        seconds: from the signal to the end.
        code: exit code; None if it hung.
        said: last line on stderr.
    """

    seconds: float
    code: int | None
    said: str

    @property
    def is_well(self) -> bool:
        """Whether the run ended as it should, or was done before the signal."""
        is_resumable = self.code == 4 and "resume with: " in self.said
        return self.seconds <= _LIMIT_S and (is_resumable or self.code == 0)


def main() -> int:
    rows, is_well = [], True
    with TemporaryDirectory(prefix="soak-") as folder:
        there = scenery(Path(folder), _TIMES)
        (there.folder / "small.onnx").write_bytes(small_network())
        for engine in sys.argv[1:] or ("inline", "ray"):
            usual_s, kernels = _usual(there, engine)
            for phase in _PHASES:
                for name in _SIGNALS:
                    end = _stopped(_Run(there, engine, kernels), phase, name, usual_s[phase])
                    is_well &= end.is_well
                    resumable = "yes" if "resume with: " in end.said else "no"
                    row = f"| {engine} | {phase} | {name} | {end.seconds:.1f} | {end.code} |"
                    rows.append(f"{row} {resumable} |")
                    print(rows[-1], end.said if not end.is_well else "", flush=True)  # noqa: T201
    return int(not is_well)


def _usual(there: Scenery, engine: str) -> tuple[dict[str, float], Path]:
    """Returns how long each phase of an undisturbed run takes, and its compiled kernels."""
    run = _Run(there, engine, there.folder / "kernels")
    began = {}
    with run.command() as command:
        for phase in _PHASES:
            _wait(run, command, phase)
            began[phase] = time.monotonic()
        command.process.wait()
        ends = [*[*began.values()][1:], time.monotonic()]
    kernels = there.folder / "kernels"
    shutil.copytree(run.cache / "distributed_pose" / "kernels", kernels, dirs_exist_ok=True)
    usual_s = {phase: end - began[phase] for phase, end in zip(began, ends, strict=True)}
    return usual_s, kernels


def _wait(run: _Run, command: Command, phase: str) -> None:
    while not run.has_begun(phase, command) and command.process.poll() is None:
        time.sleep(_POLL_S)


def _stopped(run: _Run, phase: str, name: str, usual_s: float) -> _End:
    """Returns the end of a run that gets a signal in the middle of a phase."""
    with run.command() as command:
        _wait(run, command, phase)
        time.sleep(usual_s / 2)
        start = time.monotonic()
        _SIGNALS[name](command)
        code = command.end(_HANG_S)
        seconds = time.monotonic() - start
        said = command.said() if code is not None else command.stacks()
        return _End(seconds, code, said.strip().rpartition("\n")[2])


if __name__ == "__main__":
    sys.exit(main())
