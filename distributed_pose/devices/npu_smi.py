"""Reads the Ascend chips of this machine from the driver's tool `npu-smi`.

Each chip has two lines in the tool's table. The first has the number of the card and the name of
the chip, the second the number of the chip on its card. On 310 and 310P, a device number follows;
on A3, the physical id follows. On A2, no number follows, and a card is one chip.

Source: tables of the tool's versions 21 to 26 in public logs.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distributed_pose.devices.ascend import is_published

_TIMEOUT_S = 10.0

# Matches lines such as `| 0     910B4-1             | OK            | 88.2 ...`.
_CARD_LINE = re.compile(r"\|\s*(\d+)\s+(?:Ascend)?(\d{3}[A-Za-z0-9_-]*)\s*\|")
# Matches lines such as `| 0     3                   | 0000:9B:00.0  | 0 ...`, where the second
# number can be missing.
_CHIP_LINE = re.compile(r"\|\s*(\d+)\s+(\d+)?\s*\|\s*(?:NA|[0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]+)\s*\|")

_BOARD_FIELD = re.compile(r"^\s*(Chip Name|NPU Name)\s*:\s*(\S+)\s*$", re.MULTILINE)
_VERSION_FIELD = re.compile(r"^\s*(Software|Firmware) Version\s*:\s*(\S+)\s*$", re.MULTILINE)
_UNKNOWN = {"", "NA", "N/A", "-"}


@dataclass(frozen=True)
class Chip:
    """An Ascend chip.

    Attributes:
        card: number of the chip's card.
        number: number of the chip on its card.
        physical: number of the chip's device file on the host.
        name: name of the chip, such as `310P3`; empty if unknown.
    """

    card: str
    number: str
    physical: int
    name: str


@dataclass(frozen=True)
class Row:
    """A chip in the tool's table.

    Attributes:
        chip: the chip; its name is the one in the table, which can be the name of its family.
        upper: first line of the row after the name of the chip: health, power, temperature.
        lower: second line of the row after the bus id: use of the cores, and memory.
    """

    chip: Chip
    upper: str
    lower: str


def npu_chips() -> list[Chip]:
    """Returns the chips of this machine in the tool's order; empty if the tool fails."""
    chips = [row.chip for row in npu_rows()]
    # For A3 and 950, the table shows only the family. All chips of a machine are of one kind, so
    # one chip per family is looked up.
    full = {name: _full_name(name, chips) for name in {chip.name for chip in chips}}
    return [Chip(chip.card, chip.number, chip.physical, full[chip.name]) for chip in chips]


def npu_rows() -> Iterator[Row]:
    """Yields the rows of the tool's table in its order; none if the tool fails."""
    card, upper = None, ""
    for line in _output(["npu-smi", "info"]).splitlines():
        if match := _CARD_LINE.match(line):
            card, upper = match, line[match.end() :]
        elif card and (match := _CHIP_LINE.match(line)):
            physical = match[2] or card[1]
            chip = Chip(card[1], match[1], int(physical), card[2])
            yield Row(chip, upper, line[match.end() :])
            card = None


def npu_versions_of(card: str) -> tuple[str, str]:
    """Returns the versions of the driver and of the firmware of a card; empty where unknown.

    Args:
        card: number of the card.
    """
    found = dict(_VERSION_FIELD.findall(_output(["npu-smi", "info", "-t", "board", "-i", card])))
    return found.get("Software", ""), found.get("Firmware", "")


def _full_name(name: str, chips: Sequence[Chip]) -> str:
    if is_published(name):
        return name
    chip = next(chip for chip in chips if chip.name == name)
    command = ["npu-smi", "info", "-t", "board", "-i", chip.card, "-c", chip.number]
    fields = dict(_BOARD_FIELD.findall(_output(command)))
    family = fields.get("Chip Name", name).removeprefix("Ascend")
    own = fields.get("NPU Name", "").removeprefix("Ascend")
    if own in _UNKNOWN:
        return name if family in _UNKNOWN else family
    # The fields hold `Ascend910` and `9392`, or `910` and `B3`, or one has the whole name.
    joined = f"{family}{own}" if own[0].isalpha() else f"{family}_{own}"
    return next((found for found in (joined, own, family) if is_published(found)), joined)


def _output(command: Sequence[str]) -> str:
    try:
        answer = subprocess.run(  # noqa: S603 - no part of it comes from outside
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
