"""The conditions of a measurement: machine, versions, date and command.

Every benchmark writes them with its figures.
"""

import os
import platform
import shlex
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Instruction sets that decide the speed of products -> the flag in /proc/cpuinfo.
INSTRUCTIONS = {
    "avx2": "avx2",
    "avx512": "avx512f",
    "avx512_bf16": "avx512_bf16",
    "amx": "amx_tile",
}
LIBRARIES = ("salient-awq", "torch", "transformers", "safetensors")


def conditions() -> dict[str, Any]:
    """What a reader needs to repeat a measurement."""
    return {
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
    }


def machine() -> dict[str, Any]:
    """CPU, instruction sets, cores available to this process, threads, bytes of memory."""
    facts = _cpuinfo()
    flags = facts.get("flags", "").split()
    cores = len(os.sched_getaffinity(0))
    return {
        "cpu": facts.get("model name") or platform.machine(),
        "instructions": [name for name, flag in INSTRUCTIONS.items() if flag in flags],
        "cores": cores,
        "threads": int(os.environ.get("OMP_NUM_THREADS", cores)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def conditions_line(conditions: dict[str, Any]) -> str:
    """The conditions in one line, for the end of a report."""
    host = conditions["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    return (
        f"{host['cpu']}, {host['cores']} cores, {host['threads']} threads, "
        f"{' '.join(host['instructions']) or 'no AVX2'}, "
        f"{host['memory_bytes'] / 2**30:.0f} GiB; {versions}; {conditions['date']}."
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
