"""Many hostile cases from a seed, what is wrong with how they end, and a table of them."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.hostile.cases import Case
from tests.hostile.checkpoints import checkpoint_cases
from tests.hostile.images import image_cases
from tests.hostile.models import model_cases
from tests.hostile.options import option_cases
from tests.hostile.packs import pack_cases
from tests.hostile.processes import Ending, run_command
from tests.hostile.texts import text_cases

_KINDS = {
    "image": (image_cases, 0.3),
    "onnx": (model_cases, 0.2),
    "checkpoint": (checkpoint_cases, 0.15),
    "pack": (pack_cases, 0.15),
    "text": (text_cases, 0.1),
    "option": (option_cases, 0.1),
}
KINDS = tuple(_KINDS)

_MAX_GROWTH_BYTES = 2**30
_MAX_SECONDS = 60.0

# Lines that the command prints to stderr beside its error.
_LINES: tuple[str, ...] = ("error: ", "try the failed images again: ", "WARNING:", "in/", "[0:")

# libjpeg, libpng and libtiff write to the terminal themselves, but no text from the files.
_LINES += ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression sequence")
_LINES += ("libpng ", "tempfile.tif: ")
_BUGS = ("Traceback", "this is a bug", "Exception ignored", "Segmentation fault")


@dataclass(frozen=True)
class Outcome:
    """A case and its end.

    Attributes:
        label: kind and number, by which the case can be run again.
        case: description of the fault in the files.
        what: `evaluated`, `failed image` or `refused`.
        ending: end of the command.
        problems: violated expectations; empty if there are none.
    """

    label: str
    case: Case
    what: str
    ending: Ending
    problems: tuple[str, ...]


def planned(seed: int, count: int) -> list[tuple[str, Case, Random]]:
    """Returns cases by label with their random generators; equal seeds give equal cases."""
    plan = []
    for kind, (make, share) in _KINDS.items():
        wanted = max(1, round(count * share))
        cases: list[Case] = []
        while len(cases) < wanted:
            # The claimed sizes differ between rounds.
            cases += make(Random(f"{seed} {kind} {len(cases)}"))
        if wanted < len(cases):
            # If there are fewer cases than kinds, each seed selects other kinds.
            cases = Random(f"{seed} {kind}").sample(cases, wanted)
        plan += [
            (f"{kind}/{number}", case, Random(f"{seed} {kind}/{number}"))
            for number, case in enumerate(cases)
        ]
    return plan


def outcomes(
    plan: Sequence[tuple[str, Case, Random]], keep: Path | None = None
) -> Iterator[Outcome]:
    """Yields the end of each case.

    Args:
        plan: cases by label.
        keep: folder for the files of cases with problems.
    """
    load_libraries()
    for label, case, random in plan:
        with TemporaryDirectory(prefix="hostile-") as temporary:
            folder = Path(temporary).resolve()
            (folder / "in").mkdir()
            arguments = case.write(folder / "in", random)
            ending = run_command(folder, arguments)
            outcome = Outcome(label, case, _what(folder, ending), ending, (*_problems(ending),))
            if keep and outcome.problems:
                shutil.copytree(folder, keep / label.replace("/", "-"), dirs_exist_ok=True)
        yield outcome


def load_libraries() -> None:
    """Loads the libraries of commands, so that they do not count for a case."""
    import onnxruntime  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch

    from distributed_pose.engine.host_stages import HostStages
    from distributed_pose.engine.reducer import Reducer
    from distributed_pose.keypoints.reading import coco_body

    # Threads do not survive a fork.
    torch.set_num_threads(1)
    Reducer(HostStages(coco_body())).warm_up()


def table(found: Sequence[Outcome]) -> str:
    """Returns a table in Markdown: the ends of the cases of each kind, and the worst figures."""
    columns = ("evaluated", "failed image", "refused")
    lines = [
        f"| kind | cases | {' | '.join(columns)} | worst memory, MiB | worst time, s | problems |",
        f"|{'---|' * (len(columns) + 5)}",
    ]
    for kind in (*KINDS, "all"):
        of_kind = [one for one in found if kind in {one.case.kind, "all"}]
        if not of_kind:
            continue
        counts = Counter(one.what for one in of_kind)
        memory = max(one.ending.growth_bytes for one in of_kind) / 2**20
        seconds = max(one.ending.seconds for one in of_kind)
        problems = sum(bool(one.problems) for one in of_kind)
        ends = " | ".join(str(counts[column]) for column in columns)
        lines.append(
            f"| {kind} | {len(of_kind)} | {ends} | {memory:.0f} | {seconds:.1f} | {problems} |"
        )
    return "\n".join(lines) + "\n"


def _what(folder: Path, ending: Ending) -> str:
    report = folder / "out" / "run" / "report.json"
    if report.exists() and json.loads(report.read_bytes())["failures"]:
        return "failed image"
    return "refused" if ending.code else "evaluated"


def _problems(ending: Ending) -> Iterator[str]:
    if ending.code not in {0, 2, 3, 4}:
        yield f"exit code {ending.code}"
    if ending.growth_bytes > _MAX_GROWTH_BYTES:
        yield f"{ending.growth_bytes / 2**20:.0f} MiB"
    if ending.seconds > _MAX_SECONDS:
        yield f"{ending.seconds:.0f} s"
    text = ending.out + ending.err
    yield from (f"says {bug!r}" for bug in _BUGS if bug in text)
    if not all(line.isprintable() for line in text.split("\n")):
        yield "control characters"
    lines = ending.err.splitlines()
    if ending.code in {2, 3} and sum(line.startswith("error: ") for line in lines) != 1:
        yield "not one line of error"
    if strange := [line for line in lines if line and not line.startswith(_LINES)]:
        yield f"says {strange[0][:100]!r}"
    yield from (f"touches {name!r}" for name in ending.strays)
