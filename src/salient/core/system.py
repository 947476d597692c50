"""This machine's memory and Salient's cache folder."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

import psutil

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def cache_folder() -> Path:
    """The folder for files that can be made again: SALIENT_CACHE, or ~/.cache/salient."""
    return Path(os.environ.get("SALIENT_CACHE", Path.home() / ".cache" / "salient"))


def available_memory() -> int:
    """Bytes of main memory that are free: the system's, or what the container's limit leaves."""
    free = psutil.virtual_memory().available
    for limit_path, use_path in zip(CGROUP_LIMITS, CGROUP_USES, strict=True):
        limit, use = _number(limit_path), _number(use_path)
        if limit is not None and use is not None:
            free = min(free, max(limit - use, 0))
    return free


def peak_memory() -> int:
    """Bytes of resident memory at this process's peak."""
    try:  # psutil has no peak; getrusage's is inherited from the process that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def resident_memory() -> int:
    """Bytes of resident memory now."""
    return psutil.Process().memory_info().rss


def release_memory() -> None:
    """Return freed memory to the system; glibc would retain it (Linux only)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # absent, or the word "max"
        return None
