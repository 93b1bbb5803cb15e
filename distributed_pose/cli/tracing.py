"""The option `--trace` of a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.engine.steps import step
from distributed_pose.errors import ConfigError
from distributed_pose.files.local import check_not_input, write_atomically

if TYPE_CHECKING:
    from distributed_pose.report.trace import Trace
    from distributed_pose.run.state import RunState

TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE.json",
        help="File to write the times of this session's batches to, for Perfetto or "
        "chrome://tracing.",
    ),
]


def check_trace(path: Path | None, inputs: Mapping[str, Path | None]) -> None:
    """Checks that the file of a trace can be written, before the run.

    Args:
        path: file of the trace; None for no trace.
        inputs: files that the run reads or writes, by the name that messages use.

    Raises:
        ConfigError: if the path is a folder, or one of these files.
    """
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"--trace {path} is a folder", "name a file")
    check_not_input(path, inputs)


@contextmanager
def traced(
    path: Path | None, on_progress: "Callable[[RunState], None]"
) -> "Iterator[Callable[[RunState], None]]":
    """Yields a callback for the state of a run, and at the end writes the trace of the run.

    The trace is written even if the run fails or is stopped.

    Args:
        path: file of the trace; None to write none.
        on_progress: callback that is called as well.
    """
    if path is None:
        yield on_progress
        return
    watch = _Watch(on_progress)
    try:
        yield watch
    finally:
        if watch.trace:
            step("writing the trace")
            write_atomically(path, watch.trace.to_json())


class _Watch:
    def __init__(self, on_progress: "Callable[[RunState], None]") -> None:
        self.trace: Trace | None = None
        self._on_progress = on_progress

    def __call__(self, state: "RunState") -> None:
        if self.trace is None:
            from distributed_pose.report.trace import Trace

            self.trace = Trace(state.devices)
        if state.last:
            self.trace.add(state.last)
        self._on_progress(state)
