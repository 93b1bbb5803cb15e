"""Finds cards of this machine without a working driver, which would not be listed as devices."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from distributed_pose.devices.lacks import Lack
from distributed_pose.errors import shown

_PCI = Path("/sys/bus/pci/devices")
_DEV = Path("/dev")

_TOOL_TIMEOUT_S = 10.0

# Classes of PCI devices: displays, 3D controllers and processing accelerators.
# Source: the PCI ID repository, which also has the numbers of the vendors.
_NVIDIA, _NVIDIA_CLASSES = "0x10de", ("0x0300", "0x0302")
_HUAWEI, _HUAWEI_CLASSES = "0x19e5", ("0x1200",)

_DAVINCI = re.compile(r"davinci\d+")

_NVIDIA_MEND = (
    "install NVIDIA's driver, or load it: nvidia-smi must list the card; in a container, use "
    "NVIDIA's container runtime"
)
_ASCEND_MEND = (
    "install the Ascend driver: npu-smi info must list the card, and /dev/davinci0 must exist"
)


class _Tool(NamedTuple):
    works: bool
    said: str


def driverless_cards() -> tuple[Lack, ...]:
    """Returns the drivers that cards of this machine lack; empty if every card has its driver."""
    return (*_nvidia_lacks(), *_ascend_lacks())


def _nvidia_lacks() -> Iterator[Lack]:
    cards = _cards(_NVIDIA, _NVIDIA_CLASSES)
    has_tool = shutil.which("nvidia-smi") is not None
    if not cards and not has_tool:
        return
    tool = _asked("nvidia-smi", "-L") if has_tool else _Tool(works=False, said="no nvidia-smi")
    if not tool.works:
        where = f" at {', '.join(cards)}" if cards else ""
        yield Lack(f"driver of the NVIDIA card{where}", tool.said, _NVIDIA_MEND)


def _ascend_lacks() -> Iterator[Lack]:
    cards = _cards(_HUAWEI, _HUAWEI_CLASSES)
    if cards and not any(_DAVINCI.fullmatch(node.name) for node in _DEV.glob("davinci*")):
        what = f"driver of the Ascend card at {', '.join(cards)}"
        yield Lack(what, "no /dev/davinci0", _ASCEND_MEND)


def _cards(vendor: str, classes: tuple[str, ...]) -> list[str]:
    """Returns the PCI addresses of a vendor's cards.

    Args:
        vendor: PCI id of the vendor.
        classes: prefixes of the PCI classes of the cards.
    """
    return [
        folder.name
        for folder in sorted(_PCI.glob("*"))
        if _text(folder / "vendor") == vendor and _text(folder / "class").startswith(classes)
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _asked(*command: str) -> _Tool:
    try:
        answer = subprocess.run(  # noqa: S603 - no part of it comes from outside
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return _Tool(works=False, said=f"{command[0]} does not answer")
    lines = (answer.stdout + answer.stderr).strip().splitlines()
    return _Tool(answer.returncode == 0, shown(lines[0]) if lines else "")
