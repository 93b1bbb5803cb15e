"""Runs that are interrupted and resumed on the command line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROGRESS_LINE, Dataset
from tests.soak.runs import settled_ids

# Long enough to be cut short: the driver is killed between two of some hundred batches.
TIMES = 100


@pytest.fixture(scope="module")
def many(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The rendered images a hundred times."""
    return people.times(TIMES, tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def expected(many: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The detections of a run that is left alone."""
    folder = tmp_path_factory.mktemp("alone")
    assert finish(start(many, folder, "engine=inline")) == (0, "")
    return (folder / "detections.json").read_bytes()


def start(dataset: Dataset, output: Path, *settings: str) -> subprocess.Popen[str]:
    """Starts the command on a Ray of its own."""
    keys = (
        f"data.images={dataset.images}",
        f"data.annotations={dataset.annotations}",
        "backend=oracle",
        # A shard of one batch each, however fast the oracle draws.
        "data.read=driver",
        "gather=maps",
        *settings,
    )
    command = [sys.executable, "-m", "distributed_pose", "evaluate", "--output", str(output)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [*command, *(f"--set={key}" for key in keys)],
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Returns exit code and stderr, without progress, of a run that ends or was ended."""
    _, stderr = run.communicate(timeout=120)
    return run.returncode, PROGRESS_LINE.sub("", stderr)


def wait_for_images(run: subprocess.Popen[str], output: Path, count: int) -> None:
    """Waits until a run has so many more images in its ledger."""
    before, end = num_images(output), time.monotonic() + 60
    while num_images(output) < before + count:
        assert run.poll() is None, "the run ended before it could be cut short"
        assert time.monotonic() < end
        time.sleep(0.01)


def num_images(output: Path) -> int:
    return len(settled_ids(output))


@pytest.mark.slow
def test_a_driver_killed_five_times_and_resumed_with_other_devices_loses_nothing(
    many: Dataset, expected: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    for count, devices, batch_size in ((4, 1, 4), (60, 2, 3), (40, 3, 8), (165, 1, 5), (4, 4, 2)):
        run = start(many, output, f"devices=cpu:{devices}", f"batch_size={batch_size}")
        wait_for_images(run, output, count)
        run.kill()
        finish(run)
    last = start(many, output, "devices=cpu:2", "gather=poses")
    assert finish(last) == (0, "")
    assert (output / "detections.json").read_bytes() == expected
    report = json.loads((output / "report.json").read_text())
    assert report["complete"]
    assert report["sessions"] == 6


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Has processes heed SIGINT, which those in the background of a shell inherit as ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_resume_it(
    many: Dataset, expected: bytes, tmp_path: Path, number: signal.Signals
) -> None:
    run = start(many, tmp_path / "run", "devices=cpu:2")
    wait_for_images(run, tmp_path / "run", 12)
    run.send_signal(number)
    code, stderr = finish(run)
    assert code == 4
    assert f"of {12 * TIMES} images are done" in stderr
    again = shlex.split(stderr.partition("resume with: ")[2].strip().removesuffix(")"))
    kept = num_images(tmp_path / "run")
    assert kept >= 12
    command = [sys.executable, "-m", *again, "--set", "engine=inline", "--quiet"]
    command[2] = "distributed_pose"
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""
    assert (tmp_path / "run" / "detections.json").read_bytes() == expected
    assert num_images(tmp_path / "run") > kept


def test_signals_to_each_process_of_a_run_stop_it_once(many: Dataset, tmp_path: Path) -> None:
    run = start(many, tmp_path / "run", "engine=inline")
    wait_for_images(run, tmp_path / "run", 12)
    (child,) = psutil.Process(run.pid).children()
    # As Slurm and systemd do; the watching process passes its own on.
    child.terminate()
    time.sleep(0.03)
    run.terminate()
    code, stderr = finish(run)
    assert code == 4
    assert f"of {12 * TIMES} images are done" in stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not report["complete"]


@pytest.mark.parametrize("delay_s", [0.5, pytest.param(2.0, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_while_ray_starts_says_how_to_resume_it(
    people: Dataset, tmp_path: Path, delay_s: float
) -> None:
    sessions = Path(os.environ["RAY_TMPDIR"], "ray")
    before = set(sessions.glob("session_2*"))
    run = start(people, tmp_path / "run", "engine=ray")
    while not (tmp_path / "run" / "ledger").exists():
        assert run.poll() is None
        time.sleep(0.02)
    time.sleep(delay_s)
    run.terminate()
    code, stderr = finish(run)
    assert code == 4
    assert "error: stopped" in stderr
    assert "resume with: " in stderr
    # Nor are there files of a Ray that was not started to the end.
    assert set(sessions.glob("session_2*")) == before


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_full_disk_is_named_and_the_run_can_be_resumed(
    many: Dataset, expected: bytes, tmp_path: Path, engine: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        run = start(many, disk / "run", f"engine={engine}")
        code, stderr = finish(run)
        assert code == 4
        assert len(stderr.splitlines()) == 1
        assert f"cannot write {disk}/run/ledger/" in stderr
        assert "No space left on device" in stderr
        assert num_images(disk / "run") > 12
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert finish(start(many, disk / "run", "engine=inline")) == (0, "")
        assert (disk / "run" / "detections.json").read_bytes() == expected
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_another_run_in_the_folder_is_refused_without_restart(
    people: Dataset, tmp_path: Path
) -> None:
    assert finish(start(people, tmp_path, "engine=inline")) == (0, "")
    run = start(people, tmp_path, "engine=inline", "profile=upstream")
    code, stderr = finish(run)
    assert code == 3
    assert "profile is modelzoo there and upstream here" in stderr
    keys = ["--restart", "--set", "engine=inline", "--set", "profile=upstream"]
    keys += ["--set", f"data.images={people.images}", "--set", "backend=oracle"]
    keys += ["--set", f"data.annotations={people.annotations}", "--output", str(tmp_path)]
    command = [sys.executable, "-m", "distributed_pose", "evaluate", *keys]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert json.loads((tmp_path / "report.json").read_text())["profile"] == "upstream"
