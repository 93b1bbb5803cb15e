"""The watching process handles exit codes, signals, and ends without an exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, sys, time
from distributed_pose.cli.supervise import run_supervised, report_output

def main():
"""


def start(body: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Starts a script with the given body of its command."""
    script = folder / "script.py"
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    script.write_text(f"{PRELUDE}{lines}\nrun_supervised(main)\n")
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def run(body: str, *arguments: str, folder: Path) -> tuple[int, str, str]:
    process = start(body, *arguments, folder=folder)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("body", "code"),
    [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('text')", 1)],
)
def test_the_exit_code_is_that_of_the_command(tmp_path: Path, body: str, code: int) -> None:
    assert run(f"print('said')\n{body}", folder=tmp_path) == (code, "said\n", "")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_command_ended_by_a_signal_prints_one_line_and_exits_with_4(
    tmp_path: Path, name: str
) -> None:
    code, _, err = run(f"os.kill(os.getpid(), signal.{name})", folder=tmp_path)
    assert code == 4
    assert len(err.splitlines()) == 1
    assert name in err


def test_a_process_ended_by_a_library_prints_one_line_and_exits_with_4(tmp_path: Path) -> None:
    code, _, err = run("os._exit(1)", folder=tmp_path)
    assert (code, len(err.splitlines())) == (4, 1)
    assert "exit code 1" in err


def test_a_run_that_ends_without_an_exit_code_is_summed_up_by_the_same_command(
    tmp_path: Path,
) -> None:
    body = """
if "--sum-up" in sys.argv:
    print(sys.argv[1:])
    sys.exit(4)
report_output("runs/x y")
os.kill(os.getpid(), signal.SIGKILL)
"""
    code, out, err = run(body, "evaluate", "--restart", folder=tmp_path)
    assert (code, err) == (4, "")
    reason = "SIGKILL, which happens when memory runs out"
    assert out == f"{['evaluate', '--output', 'runs/x y', '--sum-up', reason]}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command_once(tmp_path: Path, number: signal.Signals) -> None:
    body = f"""
got = []
signal.signal({int(number)}, lambda *_: got.append(1))
print("ready", flush=True)
time.sleep(1.5)
sys.exit(10 + len(got))
"""
    process = start(body, folder=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 11


def test_the_command_ends_with_the_process_that_watches_it(tmp_path: Path) -> None:
    process = start("print(os.getpid(), flush=True)\ntime.sleep(60)", folder=tmp_path)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.communicate(timeout=60)
    end = time.monotonic() + 10
    while time.monotonic() < end and is_running(child):
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_ctrl_c_before_a_run_has_begun_is_one_line(tmp_path: Path) -> None:
    body = "raise KeyboardInterrupt"
    assert run(body, folder=tmp_path) == (4, "", "error: stopped\n")
