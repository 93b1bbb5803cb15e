"""Paths of pipes, devices, endless files and so on are refused in one line without waiting."""

import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.conftest import Dataset, Run
from tests.result_folders import oracle_outputs, write_results

_DATA = "--set data.images={images} --set data.annotations={people} --set engine=inline "
_REPLAY = f"{_DATA} --set backend=recorded --set model.path={{odd}}"
_SCORE = "guide postprocess --detections-save-path out.json"
_ENTRY = f"ledger/{'0' * 64}.arrow"

# The path of the odd file in the folder `odd`, and the command that reads it.
READERS = {
    "config": ("a.yaml", "evaluate --config {odd}/a.yaml"),
    "images": ("a", "evaluate --set data.images={odd}/a --set data.annotations={people}"),
    "annotations": ("a.json", f"evaluate {_DATA} --set data.annotations={{odd}}/a.json"),
    "by URI": ("a.json", f"evaluate {_DATA} --set data.annotations=file://{{odd}}/a.json"),
    "onnx": ("a.onnx", f"evaluate {_DATA} --set model.path={{odd}}/a.onnx"),
    "checkpoint": ("a.pth", f"evaluate {_DATA} --set model.path={{odd}}/a.pth"),
    "om": ("a.om", f"evaluate {_DATA} --set model.path={{odd}}/a.om --set backend=ascend"),
    "compile": ("a.onnx", "compile {odd}/a.onnx --for onnxruntime"),
    "compile a checkpoint": ("a.pth", "compile {odd}/a.pth --for onnxruntime"),
    "export": ("a.pth", "export {odd}/a.pth out.onnx"),
    "log": ("a.log", "report import {odd}/a.log"),
    "table": ("a.log", "report table {odd}/a.log"),
    "show": ("a.log", "report {odd}/a.log --as guide"),
    "report": ("report.json", "report table {odd}"),
    "picture": ("report.json", "picture {odd} out.jpg"),
    "costs": ("a.json", "plan --devices t4=1 --costs {odd}/a.json"),
    "card": ("recording.json", f"evaluate {_REPLAY}"),
    "pads of a recording": ("pad.txt", f"evaluate {_REPLAY}"),
    "maps": ("000000000001_0.bin", f"evaluate {_REPLAY}"),
    "dump": ("recording.json", f"evaluate {_DATA} --set backend=oracle --dump-maps {{odd}}"),
    "pads": (
        "a.txt",
        f"{_SCORE} --result-dir {{odd}} --pad-txt-path {{odd}}/a.txt --labels {{people}}",
    ),
    "labels": ("a.json", f"{_SCORE} --result-dir {{odd}} --pad-txt-path x --labels {{odd}}/a.json"),
    "images of the guide": (
        "a.jpg",
        "guide preprocess --src-path {odd} --save-path out --pad-txt-path out/pad.txt",
    ),
    "entry of a ledger": (_ENTRY, f"evaluate {_DATA} --set backend=oracle --output {{odd}}"),
    "list of a run": (
        "ledger/files.json",
        f"evaluate {_DATA} --set backend=oracle --output {{odd}}",
    ),
    "result of a run": ("report.json", f"evaluate {_DATA} --set backend=oracle --output {{odd}}"),
}

# Optional files, for which a broken link counts as missing, or files that are not of a run.
_OPTIONAL = {"card", "pads of a recording", "dump", "entry of a ledger"}

# These files are found by listing their folder, and only regular files are listed.
_LISTED = {"maps", "images of the guide", "entry of a ledger"}

_MOST_BYTES = 600 * 2**20


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_terminal(path: Path) -> None:
    path.symlink_to(os.ttyname(os.openpty()[1]))


def a_folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # The path of a socket has at most 107 bytes.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def a_sparse_file(path: Path) -> None:
    with path.open("wb") as stream:
        # A legacy checkpoint begins in this way; other readers ignore the first bytes.
        if path.suffix == ".pth":
            stream.write(b"\x80\x02\x8a\x0a")
        stream.truncate(3 * 2**30)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


KINDS: dict[Callable[[Path], None], str] = {
    a_pipe: "not a regular file but a pipe",
    a_device: "not a regular file but a device",
    a_terminal: "not a regular file but a device",
    a_folder: "",
    a_socket: "not a regular file but a socket",
    a_sparse_file: "it has 3221225472 bytes, over the limit of",
    a_link_to_nothing: "",
    a_link_to_itself: "",
}


@pytest.fixture(scope="module")
def recorded(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder."""
    return write_results(tmp_path_factory.mktemp("recorded") / "maps", oracle_outputs(people))


@pytest.fixture
def watched() -> Iterator[None]:
    """Ends commands that wait, and fails if one takes more memory than a small file needs."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    # Resets the peak memory of the process.
    Path("/proc/self/clear_refs").write_text("5")
    start = _memory("VmRSS")
    yield
    assert _memory("VmHWM") - start < _MOST_BYTES
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def message_of_one_line(err: str) -> str:
    """Returns the last message on stderr, after the notes of a run."""
    lines = [line for line in err.splitlines() if line.strip()]
    assert "Traceback" not in err
    assert lines, "nothing is said"
    return next((line for line in lines if line.startswith("error: ")), lines[-1])


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_a_path_that_cannot_be_read_completely_is_an_error_of_one_line(
    run: Run,
    people: Dataset,
    recorded: Path,
    tmp_path: Path,
    reader: str,
    kind: Callable[..., None],
) -> None:
    name, template = READERS[reader]
    odd = tmp_path / "odd"
    (odd / name).parent.mkdir(parents=True)
    if "backend=recorded" in template:
        for path in recorded.iterdir():
            (odd / path.name).symlink_to(path)
        (odd / name).unlink(missing_ok=True)
    kind(odd / name)
    places = {"odd": odd, "images": people.images, "people": people.annotations}
    start = time.monotonic()
    code, _, err = run(*(word.format(**places) for word in template.split()))
    assert time.monotonic() < start + 20
    if code == 0:
        absent = kind in {a_link_to_nothing, a_link_to_itself} and reader in _OPTIONAL
        assert absent or (reader in _LISTED and reader in _OPTIONAL)
        return
    message = message_of_one_line(err)
    assert code in {2, 3, 4}
    if reader not in _LISTED | {"images", "result of a run"}:
        assert KINDS[kind] in message
        assert name.rpartition("/")[2] in message or str(odd) in message


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("kind", [a_pipe, a_device, a_terminal, a_folder, a_socket])
@pytest.mark.parametrize(
    "template", ["report import {log} --output {odd}", "demo-data {odd}/.. --images 1"]
)
def test_only_regular_files_are_replaced(
    run: Run, tmp_path: Path, template: str, kind: Callable[[Path], None]
) -> None:
    log = tmp_path / "trtexec.log"
    log.write_text("GPU Compute Time: min = 1 ms, max = 1 ms, mean = 1 ms, median = 1 ms")
    is_data = template.startswith("demo-data")
    odd = tmp_path / ("data/images" if is_data else "odd")
    odd.parent.mkdir(exist_ok=True)
    kind(odd)
    before = os.lstat(odd)
    code, _, err = run(*(word.format(log=log, odd=odd) for word in template.split()))
    if not is_data or kind is not a_folder:
        assert code in {3, 4}
        assert str(odd) in message_of_one_line(err)
    after = os.lstat(odd)
    assert (after.st_ino, stat.S_IFMT(after.st_mode)) == (
        before.st_ino,
        stat.S_IFMT(before.st_mode),
    )


@pytest.mark.usefixtures("watched")
def test_a_configuration_from_process_substitution_is_refused_with_a_remedy(run: Run) -> None:
    reading, writing = os.pipe()
    code, _, err = run("evaluate", "--config", f"/dev/fd/{reading}")
    assert code == 2
    assert "it is not a regular file but a pipe (--config must be a regular file of YAML" in err
    os.close(reading)
    os.close(writing)


@pytest.mark.usefixtures("watched")
def test_a_file_without_a_size_is_read_and_an_endless_one_is_not(run: Run, tmp_path: Path) -> None:
    code, _, err = run("evaluate", "--config", "/proc/self/status")
    assert code == 2
    assert "/proc/self/status" in message_of_one_line(err)
    code, _, err = run("report", "table", "/proc/self/pagemap")
    assert code == 3
    shutil.rmtree(tmp_path / "odd", ignore_errors=True)
