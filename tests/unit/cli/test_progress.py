"""The progress bar names the steps of a run's start."""

import logging

import pytest

from distributed_pose.cli.progress import run_progress
from distributed_pose.engine.steps import STEPS, step


def test_the_bar_on_a_terminal_names_the_current_step(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    # As without --verbose, whatever other tests have set.
    with caplog.at_level(logging.WARNING), run_progress(shown=True):
        step("starting Ray")
    assert "starting Ray" in capsys.readouterr().err
    assert not caplog.records
    assert not STEPS.handlers


def test_steps_are_logged_without_a_terminal_if_information_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), run_progress(shown=True):
        step("starting Ray")
    assert [record.getMessage() for record in caplog.records] == ["starting Ray"]
