"""The command of a user in a process of its own, its phases, and how it computes."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryFile, mkdtemp
from types import TracebackType
from typing import NamedTuple, Self

import psutil

from distributed_pose.files.local import PARTIAL_PREFIX
from distributed_pose.report.run_report import DETECTIONS
from tests.soak.runs import Scenery, settled_ids

_COMMAND = Path(sys.executable).with_name("distributed-pose")
_RATE = 60.0
# How often a phase is looked for; that of writing is over in some milliseconds.
_POLL_S = 0.01
_QUICK_POLL_S = 5e-4

# A process that was killed, and what the system has to clean up after it.
_GONE_S = 15.0
_STACKS_S = 5.0

# Phases of a run, in their order.
PHASES = ("start", "run", "scoring", "writing")


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
            "backend=simulated",
            f"simulated.rate={_RATE}",
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
        keys: that name how it computes, in the form of `--set`.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        there: Scenery,
        output: Path,
        keys: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._output = output
        self._num_images = there.num_images
        self._rays = Path(mkdtemp(prefix="dp-"))
        self._err = TemporaryFile("w+")  # noqa: SIM115 - it is closed at the exit
        data = {"images": there.dataset.images, "annotations": there.dataset.annotations}
        keys = [*(f"data.{key}={path}" for key, path in data.items()), *keys]
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        own = {"RAY_TMPDIR": str(self._rays), "PYTHONFAULTHANDLER": "1", **(environment or {})}
        self._terminal, terminal = os.openpty()
        self.process = subprocess.Popen(
            [_COMMAND, "evaluate", "--output", output, *(f"--set={key}" for key in keys)],
            stdout=subprocess.DEVNULL,
            stderr=self._err,
            env={**inherited, **own},
            start_new_session=True,
            preexec_fn=partial(_enter, terminal),  # noqa: PLW1509 - it makes two system calls
        )
        os.close(terminal)

    def press_ctrl_c(self) -> None:
        """Has its terminal send SIGINT to all processes of its group."""
        os.write(self._terminal, b"\x03")

    def wait_for(self, phase: str) -> None:
        """Returns when a phase has begun, or the run has ended."""
        while not self._has_begun(phase) and self.process.poll() is None:
            time.sleep(_QUICK_POLL_S if phase == "writing" else _POLL_S)

    def _has_begun(self, phase: str) -> bool:
        if phase == "writing":
            return any(is_result(path) for path in self._output.glob("*"))
        if phase == "start":
            return self.is_watched()
        needed = {"run": 1, "scoring": self._num_images}[phase]
        return len(settled_ids(self._output)) >= needed

    def is_watched(self) -> bool:
        """Returns whether its first process watches the other one, and no longer is started."""
        with suppress(psutil.Error):
            return bool(psutil.Process(self.process.pid).children())
        return False

    def has_worker(self) -> bool:
        """Returns whether it has the process of a worker on Ray, which is named after its actor."""
        with suppress(psutil.Error):
            below = psutil.Process(self.process.pid).children(recursive=True)
            return any(process.name().startswith("ray::_Worker") for process in below)
        return False

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

    def stacks(self) -> str:
        """Returns what a command that hangs has printed, and then the stacks of its threads."""
        for process in psutil.Process(self.process.pid).children():
            process.send_signal(signal.SIGABRT)
        psutil.wait_procs(psutil.Process(self.process.pid).children(), _STACKS_S)
        return self.said().partition("Extension modules:")[0]

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
        os.close(self._terminal)
        shutil.rmtree(self._rays, ignore_errors=True)


def _enter(terminal: int) -> None:
    """Makes a terminal that of this process, and has SIGINT end it."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    # Shells have their jobs in the background ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def usual_run(there: Scenery, engine: str) -> Usual:
    """Returns the times of an undisturbed run."""
    output = there.folder / f"usual-{engine}"
    began = {}
    with Command(there, output, Way(engine, 2, 4, "maps").keys()) as command:
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


def is_result(path: Path) -> bool:
    """Returns whether a file is a result of a run, or what is to become one."""
    return path.name.startswith((PARTIAL_PREFIX, DETECTIONS))
