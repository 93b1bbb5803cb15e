"""Runs whose Ray ends or hangs, in each phase of a run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import psutil
import pytest

from tests.conftest import Dataset

COMMAND = (Path(sys.executable).with_name("distributed-pose"),)


def started_run(
    people: Dataset, folder: Path, rays: Path, called: Sequence[Path | str] = COMMAND
) -> subprocess.Popen[str]:
    """Starts a command on a local Ray whose files are in a folder of their own."""
    keys = {"data.images": people.images, "data.annotations": people.annotations}
    options = {**keys, "backend": "simulated", "simulated.rate": 2.0, "batch_size": 2}
    command = [
        *called,
        *("evaluate", "--output", folder),
        *(f"--set={key}={value}" for key, value in {**options, "data.repeat": 8}.items()),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(rays)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def process_below(pid: int, name: str) -> psutil.Process:
    """Returns a process of this name below another one, once there is one."""
    end = monotonic() + 90
    while monotonic() < end:
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                if process.name() == name:
                    return process
        sleep(0.1)
    raise AssertionError(f"no {name} below {pid}")


@pytest.fixture
def rays() -> Iterator[Path]:
    """A folder for the files of a local Ray, with a path that is short enough for its sockets."""
    with TemporaryDirectory(prefix="dp-") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number"),
    [
        ("gcs_server", signal.SIGKILL),
        ("gcs_server", signal.SIGSTOP),
        ("raylet", signal.SIGKILL),
        ("raylet", signal.SIGSTOP),
    ],
)
def test_a_run_whose_ray_ends_or_hangs_ends_with_its_report_and_the_command_that_resumes_it(
    people: Dataset, tmp_path: Path, rays: Path, victim: str, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    process = started_run(people, folder, rays)
    end = monotonic() + 90
    while not [*folder.glob("ledger/*.arrow")] and monotonic() < end:
        sleep(0.2)
    process_below(process.pid, victim).send_signal(number)
    start = monotonic()
    _, err = process.communicate(timeout=120)
    assert monotonic() - start < 90
    assert process.returncode == 4, err
    assert f"--output {folder}" in err.splitlines()[-1]
    report = json.loads((folder / "report.json").read_text())
    assert (report["complete"], report["ap"]) == (False, None)
    assert "of 96 images done" in report["unscored"]
    assert report["num_detections"] == len(json.loads((folder / "detections.json").read_text()))


@pytest.mark.slow
def test_a_raylet_that_hangs_while_ray_starts_is_an_error_within_its_time(
    people: Dataset, tmp_path: Path, rays: Path
) -> None:
    process = started_run(people, tmp_path / "run", rays)
    process_below(process.pid, "raylet").send_signal(signal.SIGSTOP)
    start = monotonic()
    _, err = process.communicate(timeout=120)
    assert monotonic() - start < 90
    assert process.returncode in {3, 4}, err
    assert err.splitlines()[-1].startswith("error: ")


# A raylet that hangs stops answering when the engine has no more work for it.
LEAVES = """
from signal import SIGSTOP
import psutil
from distributed_pose import RunConfig
from distributed_pose.cluster.engine import RayEngine

with RayEngine(RunConfig()):
    for process in psutil.Process().children():
        if process.name() == "raylet":
            process.send_signal(SIGSTOP)
print("left")
"""


@pytest.mark.slow
def test_a_raylet_that_hangs_when_its_cluster_is_left_is_killed_at_the_exit(rays: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(rays)}
    done = subprocess.run(
        [sys.executable, "-c", LEAVES],
        capture_output=True,
        text=True,
        env=environment,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
    assert not [*rays.glob("ray/session_*_*")]


REPORTS_USE = """
import psutil
from distributed_pose import RunConfig
from distributed_pose.cluster.engine import RayEngine

with RayEngine(RunConfig()):
    for process in psutil.Process().children():
        print(process.environ().get("RAY_USAGE_STATS_ENABLED"))
"""


@pytest.mark.slow
def test_a_local_ray_sends_no_statistics_of_its_use(rays: Path) -> None:
    command = [sys.executable, "-c", REPORTS_USE]
    environment = {"PATH": os.environ["PATH"], "HOME": str(rays), "RAY_TMPDIR": str(rays)}
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=90, check=True
    )
    assert {*ran.stdout.split()} == {"0"}


# Ray then waits for the raylet without a limit, and no thread of the process can run.
REGISTERS = """
import os, signal, sys
import psutil, ray
from distributed_pose.__main__ import start
from distributed_pose.cluster import connection

connection._BLOCKED_TIMEOUT_S = 10.0
register = ray._raylet.CoreWorker

def register_with_a_raylet_that_hangs(*arguments, **options):
    for process in psutil.Process().children():
        if process.name() == "raylet" and os.fork() == 0:
            process.send_signal(signal.SIGSTOP)
            os._exit(0)
    return register(*arguments, **options)

ray._raylet.CoreWorker = register_with_a_raylet_that_hangs
start()
"""


@pytest.mark.slow
def test_a_raylet_that_hangs_while_ray_holds_the_interpreters_lock_ends_the_run(
    people: Dataset, tmp_path: Path, rays: Path
) -> None:
    script = tmp_path / "distributed-pose"
    script.write_text(REGISTERS)
    process = started_run(people, tmp_path / "run", rays, [sys.executable, script])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "0 of 96 images done (resume with: " in err.splitlines()[-1]
