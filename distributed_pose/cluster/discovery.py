"""The accelerators of this machine, asked of their drivers' tools and files.

No vendor SDK is loaded for it, so that listing devices is quick and works with broken ones.
"""

import logging
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from distributed_pose.cluster.devices import Accelerator

_LOG = logging.getLogger(__name__)

# What hides devices from a process, as drivers and Ray have it.
VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}

_TOOL_TIMEOUT_S = 10.0
_DEV = Path("/dev")
_DAVINCI = re.compile(r"davinci(\d+)")

# The first line of a device in the table of `npu-smi info`: card and name, such as 310P3, 910B4-1
# or, on A3 machines, Ascend910.
_NPU_ROW = re.compile(r"\|\s*\d+\s+(?:Ascend)?(\d{3}[A-Za-z0-9_-]*)\s*\|")

# Lines of `nvidia-smi -L`, and the beginning of an instance's name.
_CARD_LINE = re.compile(r"GPU \d+: (.*?) \(UUID: ")
_MIG_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")
_MIG = "MIG-"

# What users write to see no device.
_NO_DEVICE = {"-1", "none", "NoDevFiles", "void"}


def local_accelerators() -> tuple[Accelerator, ...]:
    """Returns the devices that this process may use, NPUs before GPUs."""
    count_cards_as_tools_do()
    return (*_visible(_npus()), *_visible(_gpus()))


def hide_accelerators() -> None:
    """Hides all accelerators from what this process loads from here on."""
    for variable in VISIBLE.values():
        os.environ[variable] = ""


def show_only(kind: str, device_id: str) -> None:
    """Hides all devices of a kind but one from what this process loads from here on.

    Args:
        kind: `cuda` or `npu`.
        device_id: by which the node knows the one that stays.
    """
    count_cards_as_tools_do()
    os.environ[VISIBLE[kind]] = device_id


def count_cards_as_tools_do() -> None:
    """Has CUDA number cards in this process as `nvidia-smi` and Ray do, by their place on the bus.

    By itself it puts the fastest first. Who has set the variable otherwise keeps his order.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def _gpus() -> list[Accelerator]:
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    rows = [line.split(",", 2) for line in _output(query) if line.count(",") >= 2]
    listed = _listed("cuda") or []
    found = []
    for index, uuid, name in (map(str.strip, row) for row in rows):
        # Who names cards by their UUIDs, or by the beginning of them, gets them by these names
        # from Ray as well.
        given = next((word for word in listed if _names_uuid(word, uuid)), index)
        found.append(Accelerator("cuda", given, name))
    if any(word.startswith(_MIG) for word in listed):
        found += _mig_instances()
    return found


def _names_uuid(word: str, uuid: str) -> bool:
    """Returns whether a word is the UUID of a card or a beginning of it, as CUDA reads it."""
    return word.startswith("GPU-") and len(word) > len("GPU-") and uuid.startswith(word)


def _mig_instances() -> list[Accelerator]:
    """Returns the instances that cards are divided into, as CUDA_VISIBLE_DEVICES names them."""
    found, card = [], ""
    for line in _output(["nvidia-smi", "-L"]):
        if match := _CARD_LINE.match(line):
            card = match[1].strip()
        elif match := _MIG_LINE.match(line):
            found.append(Accelerator("cuda", match[2], f"{card} MIG {match[1]}"))
    return found


def _npus() -> list[Accelerator]:
    nodes = _DEV.iterdir() if _DEV.is_dir() else ()
    ids = sorted(int(match[1]) for node in nodes if (match := _DAVINCI.fullmatch(node.name)))
    # The tool takes seconds, and says nothing where there is no device.
    names = _npu_names() if ids else []
    # A card can have several chips, all of one kind: with other numbers, the first name holds.
    model = names[0] if names else ""
    alike = len(names) == len(ids)
    return [
        Accelerator("npu", str(number), names[position] if alike else model)
        for position, number in enumerate(ids)
    ]


def _npu_names() -> list[str]:
    rows = map(_NPU_ROW.match, _output(["npu-smi", "info"]))
    return [match[1] for match in rows if match]


def _listed(kind: str) -> list[str] | None:
    """Returns the devices that the environment leaves, by the names it has; None if it is silent.

    CUDA and CANN stop at the first name that stands for none.
    """
    value = os.environ.get(VISIBLE[kind])
    if value is None:
        return None
    return [name for word in value.split(",") if (name := word.strip())]


def _visible(devices: Sequence[Accelerator]) -> Iterable[Accelerator]:
    """Yields the devices that the environment leaves, in its order."""
    if not devices or (listed := _listed(devices[0].kind)) is None:
        return devices
    by_id = {device.device_id: device for device in devices}
    if unknown := [name for name in listed if name not in by_id and name not in _NO_DEVICE]:
        _LOG.warning(
            "%s names %s, which is none of this machine's devices: %s",
            VISIBLE[devices[0].kind],
            ", ".join(unknown),
            ", ".join(by_id),
        )
    return [by_id[name] for name in listed if name in by_id]


def _output(command: Sequence[str]) -> list[str]:
    try:
        answer = subprocess.run(  # noqa: S603 - no part of it comes from outside
            command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []
