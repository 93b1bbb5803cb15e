"""Progress is shown as a bar on a terminal, as lines elsewhere, and not at all with `--quiet`."""

import logging
from collections.abc import Iterator
from threading import Event

import pytest

from distributed_pose.cli.progress import RunProgress, progress, run_progress
from distributed_pose.cli.progress_lines import ProgressLines
from distributed_pose.engine.steps import STEPS, step
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.facts import Faults
from distributed_pose.run.ledger import Ledger
from distributed_pose.run.state import RunState


@pytest.fixture(autouse=True)
def default_level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The level without --verbose and --quiet, whatever other tests have set."""
    with caplog.at_level(logging.WARNING):
        yield


def ready(name: str) -> DeviceReady:
    return DeviceReady(
        plan=DevicePlan(name=name, kind="cpu", node="", node_id="", cpus=1),
        backend="oracle",
        precision="f32",
        description="a processor",
        batch_size=1,
        warmup_ns=0,
    )


class Clock:
    """A clock that the test advances."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_bar_on_a_terminal_names_the_current_step(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with run_progress():
        step("starting Ray")
    assert "starting Ray" in capsys.readouterr().err
    assert not caplog.records
    assert not STEPS.handlers


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_each_step_is_one_line_without_a_terminal(
    level: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(level), run_progress():
        step("starting Ray")
        step("compiling the model")
    out, err = capsys.readouterr()
    assert err.splitlines() == ["[0:00:00] starting Ray", "[0:00:00] compiling the model"]
    assert not out
    assert not caplog.records


def test_quiet_shows_no_progress(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with caplog.at_level(logging.ERROR), progress() as on_progress:
        step("starting Ray")
        on_progress(3, 1)
    assert capsys.readouterr() == ("", "")


def test_a_regular_line_has_what_is_done_or_else_how_long_the_step_takes() -> None:
    clock, lines = Clock(), list[str]()
    shown = ProgressLines(lines.append, clock)
    clock.now_s += 30
    shown.begin("compiling the model")
    clock.now_s += 90
    shown.write_state()
    shown.begin("measuring")
    shown.count(4, 1, "", lambda: "1 of 4 done")
    clock.now_s += 3600
    shown.write_state()
    assert lines == [
        "[0:00:30] compiling the model",
        "[0:02:00] compiling the model: for 0:01:30",
        "[0:02:00] measuring",
        "[1:02:00] measuring: 1 of 4 done",
    ]


def test_regular_lines_come_while_nothing_is_done() -> None:
    seen = Event()

    def write(line: str) -> None:
        if line.startswith("[0:00:00] starting: for"):
            seen.set()

    with ProgressLines(write, Clock(), every_s=0.001):
        assert seen.wait(60)


def test_the_line_of_a_run_has_images_rate_time_left_failures_and_devices() -> None:
    faults = Faults(taken_out=("reducer:0", "cpu:1"))
    lines = list[str]()
    display = ProgressLines(lines.append)
    devices = [ready(f"cpu:{number}") for number in range(3)]
    RunProgress(display)(RunState(Ledger(()), 8, devices, lambda: faults))
    display.write_state()
    (line,) = lines
    assert "0 of 8 images, 0.0 images/s, unknown time left" in line
    assert "0 failed, 2 of 3 devices in use" in line
