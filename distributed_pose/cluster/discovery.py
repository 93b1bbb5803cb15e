"""The accelerators of this machine, asked of their drivers' tools and files.

No vendor SDK is loaded for it, so that listing devices is quick and works with broken ones.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from distributed_pose.cluster.devices import Accelerator

# What hides devices from a process, as drivers and Ray have it.
VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}

_TOOL_TIMEOUT_S = 10.0
_DEV = Path("/dev")
_DAVINCI = re.compile(r"davinci(\d+)")

# The first line of a device in the table of `npu-smi info`: card and name.
_NPU_ROW = re.compile(r"\|\s*\d+\s+(?:Ascend)?(310\w*|910\w*|\d{3}P\w*)\s*\|")


def local_accelerators() -> tuple[Accelerator, ...]:
    """Returns the devices that this process may use, NPUs before GPUs."""
    return (*_visible(_npus()), *_visible(_gpus()))


def hide_accelerators() -> None:
    """Hides all accelerators from what this process loads from here on."""
    for variable in VISIBLE.values():
        os.environ[variable] = ""


def _gpus() -> list[Accelerator]:
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    rows = [line.split(",", 2) for line in _output(query) if line.count(",") >= 2]
    listed = os.environ.get(VISIBLE["cuda"], "")
    found = []
    for index, uuid, name in (map(str.strip, row) for row in rows):
        # Who names cards by their UUIDs gets them by these from Ray as well.
        is_named = uuid and uuid in map(str.strip, listed.split(","))
        found.append(Accelerator("cuda", uuid if is_named else index, name))
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


def _visible(devices: Sequence[Accelerator]) -> Iterable[Accelerator]:
    """Yields the devices that the environment leaves, in its order."""
    if not devices or (listed := os.environ.get(VISIBLE[devices[0].kind])) is None:
        return devices
    by_id = {device.device_id: device for device in devices}
    names = [name.strip() for name in listed.split(",")]
    return [by_id[name] for name in names if name in by_id]


def _output(command: Sequence[str]) -> list[str]:
    try:
        answer = subprocess.run(  # noqa: S603 - no part of it comes from outside
            command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []
