"""The processor of this machine, and the memory of this process."""

import ctypes
import math
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")

# glibc's M_MMAP_THRESHOLD, at its greatest, and M_TRIM_THRESHOLD, from malloc.h.
_KEPT = {-3: 32 * 2**20, -1: 2**30}


def cpu_name() -> str:
    """Returns the processor's name as its maker gives it, or the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def num_cpus() -> int:
    """Returns the number of processors that this process may use, container limits included."""
    known = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, int(min(count, container_cpus())))


def container_cpus(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float:
    """Returns the processor time that this process's control groups allow, in processors.

    It is infinite where there is no limit. The tightest of the process's groups and those above
    them counts.

    Args:
        cgroups: where the control groups are mounted.
        membership: file that tells which groups the process is in.

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
    """Yields the folder of a group, and those above it up to the mount.

    A container sees its own group at the mount, whatever path the host has for it.
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
    """Returns a quota in processors; the kernel writes `max` or -1 where there is none."""
    return quota_us / period_us if quota_us > 0 and period_us > 0 else math.inf


def _numbers(file: Path) -> list[float]:
    try:
        return [
            float(word) for word in file.read_text(encoding="utf-8").replace("max", "-1").split()
        ]
    except (OSError, ValueError):
        return []


def peak_rss_bytes() -> int:
    """Returns the most memory that this process has had resident."""
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, where the C library can be told to.

    By default glibc gives images and batches back to the system and asks for them anew: clearing
    their pages again took a third of the time that preprocessing an image takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for parameter, threshold_bytes in _KEPT.items():
            mallopt(parameter, threshold_bytes)
