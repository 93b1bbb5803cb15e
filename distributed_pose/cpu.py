"""The processor of this machine, and the memory of this process."""

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

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
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
