"""Meters Ascend chips by the table of the driver's tool `npu-smi`.

Not checked on a card: the form of the table is that of public logs of the tool's versions 21 to 26.
"""

import re
from collections.abc import Sequence

from distributed_pose.devices.discovery import npu_chip
from distributed_pose.devices.metering import Reading
from distributed_pose.devices.npu_smi import Chip, Row, npu_rows, npu_versions_of

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MEMORY = re.compile(r"(\d+)\s*/\s*(\d+)")
_MIB = 2**20


class NpuMeter:
    """Meters one chip.

    The tool counts no energy. Where it shows one power for several chips of a card, the power of
    each chip is unknown.

    Args:
        chip: the chip.
    """

    # The tool is a process that asks all chips, and takes about a second.
    interval_s = 10.0

    def __init__(self, chip: Chip) -> None:
        self._chip = chip
        self.driver, self.firmware = npu_versions_of(chip.card)

    def read(self) -> Reading:
        card = [row for row in npu_rows() if row.chip.card == self._chip.card]
        own = next((row for row in card if row.chip.number == self._chip.number), None)
        return Reading() if own is None else _reading(own, card)

    def close(self) -> None:
        pass


def npu_meter(device_id: str) -> NpuMeter | None:
    """Returns the meter of a chip; None where the driver's tool does not list it.

    Args:
        device_id: CANN's logical id of the chip.
    """
    chip = npu_chip(device_id)
    return NpuMeter(chip) if chip else None


def _reading(own: Row, card: Sequence[Row]) -> Reading:
    power_w = _first(own.upper.partition("|")[2])
    is_shared = any(_first(row.upper.partition("|")[2]) is None for row in card)
    percent = _first(own.lower)
    # The chips of A2 and A3 have their memory in the second pair, and 0 / 0 in the first.
    used = [int(used) for used, total in _MEMORY.findall(own.lower) if int(total)]
    return Reading(
        memory_used_bytes=used[-1] * _MIB if used else None,
        utilisation=None if percent is None else percent / 100,
        power_w=None if is_shared else power_w,
    )


def _first(cell: str) -> float | None:
    """Returns the number that a cell begins with; None if it begins with `-` or `NA`."""
    match = _NUMBER.match(cell.strip())
    return float(match[0]) if match else None
