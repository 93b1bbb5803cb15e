"""Lists the accelerators of this machine from their drivers' tools and files.

No vendor SDK is loaded, so that listing devices is quick and works even if an SDK is broken.
"""

import logging
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from distributed_pose.devices.kinds import CUDA, KINDS, NPU, accelerators
from distributed_pose.devices.npu_smi import Chip, npu_chips, npu_rows
from distributed_pose.devices.planning import Accelerator
from distributed_pose.errors import shown
from distributed_pose.packages import load

_LOG = logging.getLogger(__name__)

_TOOL_TIMEOUT_S = 10.0
_DEV = Path("/dev")
_IDS = re.compile(r"\d+(,\d+)*")
_DAVINCI = re.compile(r"davinci(\d+)")

# Patterns of the lines of `nvidia-smi -L`, and the prefix of a MIG instance's name.
_CARD_LINE = re.compile(r"GPU \d+: (.*?) \(UUID: ")
_MIG_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")
_MIG = "MIG-"

# Values of the variables by which users hide all devices.
_NO_DEVICE = {"-1", "none", "NoDevFiles", "void"}


def local_accelerators() -> tuple[Accelerator, ...]:
    """Returns the accelerators that this process may use, in the order of the kinds."""
    count_cards_as_tools_do()
    found: list[Accelerator] = []
    for kind in accelerators():
        found += _visible(load(KINDS[kind].lister)())
    return tuple(found)


def hide_accelerators() -> None:
    """Hides all accelerators from libraries that this process loads afterwards."""
    for kind in accelerators():
        os.environ[KINDS[kind].variable] = ""


def show_only(kind: str, device_id: str) -> None:
    """Hides all devices of a kind except one from libraries that this process loads afterwards.

    Args:
        kind: kind of accelerator.
        device_id: id on this node of the device that stays visible.
    """
    count_cards_as_tools_do()
    os.environ[KINDS[kind].variable] = device_id


def count_cards_as_tools_do() -> None:
    """Makes CUDA number cards in this process as `nvidia-smi` and Ray do, by their PCI bus ids.

    By default, CUDA puts the fastest card first. If the user has set the variable, it is kept.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def list_gpus() -> list[Accelerator]:
    """Returns the NVIDIA cards and named MIG instances of this machine."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    rows = [line.split(",", 2) for line in _output(query) if line.count(",") >= 2]
    listed = _listed(CUDA) or []
    found = []
    for index, uuid, name in (map(str.strip, row) for row in rows):
        # If the user names cards by their UUIDs, or by prefixes of them, Ray uses the same names.
        given = next((word for word in listed if _names_uuid(word, uuid)), index)
        found.append(Accelerator(CUDA, given, name))
    if any(word.startswith(_MIG) for word in listed):
        found += _mig_instances()
    return found


def _names_uuid(word: str, uuid: str) -> bool:
    """Returns whether a word is the UUID of a card or a prefix of it that CUDA accepts."""
    return word.startswith("GPU-") and len(word) > len("GPU-") and uuid.startswith(word)


def _mig_instances() -> list[Accelerator]:
    """Returns the MIG instances of the cards, by their names in CUDA_VISIBLE_DEVICES."""
    found, card = [], ""
    for line in _output(["nvidia-smi", "-L"]):
        if match := _CARD_LINE.match(line):
            card = match[1].strip()
        elif match := _MIG_LINE.match(line):
            found.append(Accelerator(CUDA, match[2], f"{card} MIG {match[1]}"))
    return found


def list_npus() -> list[Accelerator]:
    """Returns the Ascend chips of this machine, with CANN's logical ids.

    The ids are 0, 1, ... in the order of the device files. In a container, the device files keep
    the host's numbers, but the ids start at 0.
    """
    numbers = _davinci_numbers()
    # The tool takes seconds, so it is not run where there is no device file.
    chips = npu_chips() if numbers else []
    # In a container, the tool can list all chips of the host, which are of one kind.
    name = chips[0].name if chips else ""
    return [
        Accelerator(NPU, str(index), chip.name if chip else name, chip.card if chip else "")
        for index, chip in enumerate(_by_logical_id(chips, numbers))
    ]


def npu_chip(device_id: str) -> Chip | None:
    """Returns the Ascend chip with a logical id of CANN; None if the driver's tool does not say.

    Args:
        device_id: logical id, as `list_npus` has it.
    """
    numbers = _davinci_numbers()
    chips = [row.chip for row in npu_rows()] if numbers else []
    by_id = dict(enumerate(_by_logical_id(chips, numbers)))
    return by_id.get(int(device_id)) if device_id.isdecimal() else None


def _davinci_numbers() -> list[int]:
    files = _DEV.iterdir() if _DEV.is_dir() else ()
    return sorted(int(match[1]) for file in files if (match := _DAVINCI.fullmatch(file.name)))


def _by_logical_id(chips: Sequence[Chip], numbers: Sequence[int]) -> Sequence[Chip | None]:
    """Returns the chip of each device file, in the order of the files."""
    by_number = {chip.physical: chip for chip in chips}
    return chips if len(chips) == len(numbers) else [by_number.get(n) for n in numbers]


def _listed(kind: str) -> list[str] | None:
    """Returns the names in the variable that restricts the visible devices of a kind.

    Returns None if the variable is not set.
    """
    value = os.environ.get(KINDS[kind].variable)
    if value is None:
        return None
    if (reader := KINDS[kind].id_reader) and value not in _NO_DEVICE:
        ids: list[str] = load(reader)(value)
        return ids
    return [name for word in value.split(",") if (name := word.strip())]


def npu_ids(value: str) -> list[str]:
    """Returns the ids that CANN reads from the value of its variable.

    CANN reads up to the first character that is not a digit or comma, and accepts only ids in
    ascending order.

    Source: ASCEND_RT_VISIBLE_DEVICES in the reference of CANN's environment variables, 8.0 to 9.1.
    """
    read = _IDS.match(value)
    words = read[0].split(",") if read else []
    ids = sorted(set(words), key=int)
    if words != ids or (read[0] if read else "") != value:
        taken = ",".join(ids) or "no device"
        text = "%s=%s is read as %s: CANN reads ascending ids that only commas separate"
        _LOG.warning(text, KINDS[NPU].variable, shown(value), taken)
    return ids


def _visible(devices: Sequence[Accelerator]) -> Iterable[Accelerator]:
    """Returns the devices that the environment leaves visible, in the order of its variable.

    As for CUDA, those behind a name that is not the name of a device are hidden.
    """
    if not devices or (listed := _listed(devices[0].kind)) is None:
        return devices
    by_id = {device.device_id: device for device in devices}
    if unknown := [name for name in listed if name not in by_id and name not in _NO_DEVICE]:
        _LOG.warning(
            "%s names %s, which is not a device of this machine: %s",
            KINDS[devices[0].kind].variable,
            ", ".join(unknown),
            ", ".join(by_id),
        )
    return [by_id[name] for name in takewhile(by_id.__contains__, listed)]


def _output(command: Sequence[str]) -> list[str]:
    try:
        answer = subprocess.run(  # noqa: S603 - no part of it comes from outside
            command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []
