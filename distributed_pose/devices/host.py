"""Reads the processors of this machine and the memory of this process."""

import ctypes
import math
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from distributed_pose.records.facts import HostLoad

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_PROCESSORS = Path("/sys/devices/system/cpu")
_STATUS = Path("/proc/self/status")

# Values in bytes of glibc's M_MMAP_THRESHOLD, the largest that it allows, and M_TRIM_THRESHOLD.
# Source: malloc.h.
_KEPT = {-3: 32 * 2**20, -1: 2**30}


def cpu_name() -> str:
    """Returns the model name of the processor, or the architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def num_cpus() -> int:
    """Returns the number of processors that this process may use, including container limits."""
    known = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, int(min(count, container_cpus())))


def container_cpus(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float:
    """Returns the processor time that this process's control groups allow, in processors.

    The limit is the smallest of those of the process's groups and of their parent groups; it is
    infinite if there is none.

    Args:
        cgroups: folder at which the control groups are mounted.
        membership: file that lists the groups of the process.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and
    Documentation/scheduler/sched-bwc.rst (`cpu.cfs_quota_us`).
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return math.inf
    limits = [math.inf]
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            limits += [_v2_limit(folder) for folder in _upwards(cgroups, path)]
        elif "cpu" in controllers.split(","):
            limits += [_v1_limit(folder) for folder in _upwards(cgroups / controllers, path)]
            limits += [_v1_limit(folder) for folder in _upwards(cgroups / "cpu", path)]
    return min(limits)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yields the folder of a group and its parent folders, up to the mount.

    A container sees its own group at the mount, and not at its path on the host.

    Args:
        root: folder at which the control groups are mounted.
        path: path of the group below the mount.
    """
    folder = root / path.strip("/")
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _v2_limit(folder: Path) -> float:
    return _quota(*_numbers(folder / "cpu.max"))


def _v1_limit(folder: Path) -> float:
    quota, period = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
    return _quota(*_numbers(quota), *_numbers(period))


def _quota(quota_us: float = -1, period_us: float = 0) -> float:
    """Returns a quota in processors; infinite if there is none.

    Args:
        quota_us: processor time per period in microseconds; -1, also written `max`, for no quota.
        period_us: length of the period in microseconds.
    """
    return quota_us / period_us if quota_us > 0 and period_us > 0 else math.inf


def _numbers(file: Path) -> list[float]:
    try:
        return [
            float(word) for word in file.read_text(encoding="utf-8").replace("max", "-1").split()
        ]
    except (OSError, ValueError):
        return []


def host_load(processors: Path = _PROCESSORS) -> HostLoad:
    """Returns the load of this machine and the frequency governors of its processors.

    The present frequencies are left out, since reading one can take 10 ms per processor.

    Args:
        processors: folder in which the system describes its processors.

    Source: Linux, Documentation/admin-guide/pm/cpufreq.rst (`scaling_governor`).
    """
    governors = set()
    for file in processors.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        with suppress(OSError, ValueError):
            governors.add(file.read_text(encoding="utf-8").strip())
    try:
        load: float | None = os.getloadavg()[0]
    except OSError:
        load = None
    return HostLoad(load=load, governor="+".join(sorted(governors)))


def peak_rss_bytes() -> int:
    """Returns the peak resident memory of this process, in bytes."""
    # On Linux `ru_maxrss` begins with the peak of the process that started this one.
    with suppress(OSError):
        if peak := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text(errors="replace")):
            return int(peak[1]) * 1024
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, if the C library has `mallopt`.

    By default, glibc returns the memory of images and batches to the system and requests it again.
    Clearing the pages again took a third of the time that preprocessing an image takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for parameter, threshold_bytes in _KEPT.items():
            mallopt(parameter, threshold_bytes)
