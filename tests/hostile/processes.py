"""Each case in a process of its own, which is measured: memory, time, output, and files."""

import hashlib
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A process with all libraries takes some hundred MiB of address space per thread. The limit
# protects the machine, and is far above the memory that a case may take.
_ADDRESS_SPACE_BYTES = 12 * 2**30
_PATIENCE_S = 90.0

# The folders that a command may write to; all others must not change.
_OWN = ("out", "home/.cache/distributed_pose", "stdout", "stderr", "start")


@dataclass(frozen=True)
class Ending:
    """The end of a command.

    Attributes:
        code: exit code; negative for a signal, also if the command exceeded its time.
        seconds: wall time.
        growth_bytes: peak resident memory minus that at the start.
        out: text on stdout.
        err: text on stderr.
        strays: files outside of its output that were added, removed or changed.
    """

    code: int
    seconds: float
    growth_bytes: int
    out: str
    err: str
    strays: tuple[str, ...]


def run_command(folder: Path, arguments: Sequence[str]) -> Ending:
    """Runs a command in a folder and returns its end.

    The process is a fork of this one, which should have loaded the libraries of commands.
    """
    for name in ("home", "tmp", "out"):
        (folder / name).mkdir()
    before = _snapshot(folder)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(folder, arguments)
    descriptor = os.pidfd_open(child)
    # The whole group is killed, so that child processes end, too.
    if not select.select([descriptor], [], [], _PATIENCE_S)[0]:
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    os.close(descriptor)
    seconds = time.monotonic() - start
    started_kib = int((folder / "start").read_text())
    after = _snapshot(folder)
    changed = before.items() ^ after.items()
    # Folders that the command line names are for output, too.
    named = tuple(filter(None, (word.rpartition("=")[2] for word in arguments)))
    return Ending(
        os.waitstatus_to_exitcode(status),
        seconds,
        max(0, usage.ru_maxrss - started_kib) * 1024,
        (folder / "stdout").read_bytes().decode(errors="replace"),
        (folder / "stderr").read_bytes().decode(errors="replace"),
        tuple(sorted({name for name, _ in changed if not name.startswith(named)})),
    )


def _become(folder: Path, arguments: Sequence[str]) -> None:
    """Runs the command in this process, and ends it."""
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        home = str(folder / "home")
        os.environ |= {"HOME": home, "TMPDIR": str(folder / "tmp"), "COLUMNS": "120"}
        os.environ |= {"XDG_CACHE_HOME": f"{home}/.cache", "XDG_CONFIG_HOME": f"{home}/.config"}
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Resets the peak memory of the parent.
        Path("/proc/self/clear_refs").write_text("5")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        Path("start").write_text(str(pages * resource.getpagesize() // 1024))
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")
        sys.argv = ["distributed-pose", *arguments]
        code = _exit_code()
    finally:
        # Exit handlers of the parent do not run.
        os._exit(code)


def _exit_code() -> int:
    import traceback

    from distributed_pose.cli.main import main

    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - it is what the case is to find
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _snapshot(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not name.startswith(_OWN) and name not in {"home", "home/.cache"}:
            is_file = path.is_file() and not path.is_symlink()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else "other"
    return found
