"""This machine's memory and Salient's cache folder."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def cache_folder() -> Path:
    """The folder for files that can be made again: SALIENT_CACHE, or ~/.cache/salient."""
    return Path(os.environ.get("SALIENT_CACHE", Path.home() / ".cache" / "salient"))


def available_memory() -> int:
    """Bytes of main memory that are free: the system's, or what the container's limit leaves."""
    free = _proc("/proc/meminfo", "MemAvailable")
    if free is None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit_path, use_path in zip(CGROUP_LIMITS, CGROUP_USES, strict=True):
        limit, use = _number(limit_path), _number(use_path)
        if limit is not None and use is not None:
            free = min(free, max(limit - use, 0))
    return free


def peak_memory() -> int:
    """Bytes of resident memory at this process's peak."""
    own = _proc("/proc/self/status", "VmHWM")
    if own is not None:
        return own  # getrusage's figure is inherited from the process that started this one
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory() -> int:
    """Bytes of resident memory now (its peak where the system does not report it)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def release_memory() -> None:
    """Return freed memory to the system; glibc would retain it (Linux only)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _proc(path: str, key: str) -> int | None:
    """The bytes that the line `key` of a /proc file gives in kB, None if it is absent."""
    try:
        lines = dict(line.split(":", 1) for line in Path(path).read_text().splitlines())
        return int(lines[key].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # absent, or the word "max"
        return None
