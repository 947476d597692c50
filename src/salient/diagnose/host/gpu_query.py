"""GPUs by NVML, nvidia-smi and rocm-smi; a tool that is absent, fails or hangs is no exception.

`salient.plan.gpus` knows what the GPUs can do, by their names.
"""

import contextlib
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from salient.core.model_files import as_object
from salient.diagnose.env_vars import plain
from salient.plan.gpus import Gpu

Run = Callable[[list[str]], str]
TIMEOUT = 5.0  # seconds for a tool
FIELDS = "name,memory.total,memory.used,compute_cap"
_FORMAT = "--format=csv,noheader,nounits"
_ROCM = ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"]
_CUDA = re.compile(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)")
_AGENT = re.compile(r"^\s*Name:\s+(gfx[0-9a-f]+)\s*$", re.MULTILINE)
_MIB = 2**20
# files of a loaded kernel driver, whether or not its tools are installed
DRIVER_FILES = (("nvidia", "/proc/driver/nvidia/version"), ("amd", "/dev/kfd"))


@dataclass(frozen=True)
class GpuInfo:
    """A GPU by its driver; what the driver does not report is 0 or "".

    memory, used: MiB; capability: 89 for 8.9
    throttle: bits of NVML's clocks_throttle_reasons; width: lanes of its PCIe link now
    """

    name: str
    vendor: str
    memory: float = 0
    used: float = 0
    capability: int = 0
    gfx: str = ""
    throttle: int = 0
    width: int = 0

    def as_gpu(self) -> Gpu:
        """A device with the driver's facts alone, as for one that the catalogue does not have."""
        vendor, memory = "amd" if self.vendor == "amd" else "nvidia", self.memory / 1024
        return Gpu(self.name, vendor, "", memory, 0, 0, capability=self.capability, gfx=self.gfx)


@dataclass(frozen=True)
class ToolError:
    """A tool that failed, and its message."""

    tool: str
    message: str

    @property
    def text(self) -> str:
        return f"{self.tool}: {self.message}"


def run_program(command: list[str]) -> str:
    """The output of `command`, within TIMEOUT.

    Raises OSError where it is absent, CalledProcessError where it fails, TimeoutExpired where it
    hangs: then it is killed, and not waited for if a broken driver blocks it.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        text, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        raise
    finally:
        if process.stdout:
            process.stdout.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output=text)
    return text


def read_cards(run: Run | None = None) -> tuple[tuple[GpuInfo, ...], str, tuple[ToolError, ...]]:
    """The GPUs of both vendors, the driver's CUDA version, and tools that failed.

    run: starts a tool; None: NVML first, and programs where it fails
    """
    troubles: list[ToolError] = []
    nvml = None if run else query_nvml()
    cards, cuda = nvml or _query_nvidia_smi(run or run_program, troubles)
    cards += _query_rocm_smi(run or run_program, troubles)
    return tuple(cards), cuda, tuple(troubles)


def drivers() -> tuple[str, ...]:
    """Vendors of loaded kernel drivers."""
    return tuple(vendor for vendor, file in DRIVER_FILES if Path(file).exists())


def query_nvml() -> tuple[list[GpuInfo], str] | None:
    """NVIDIA's GPUs and the driver's CUDA version, None where NVML fails or does not answer."""
    answers: list[tuple[list[GpuInfo], str] | None] = []
    thread = Thread(target=lambda: answers.append(_nvml_answer()), daemon=True)
    thread.start()
    thread.join(TIMEOUT)  # a broken driver blocks its callers for ever
    return answers[0] if answers else None


def _nvml_answer() -> tuple[list[GpuInfo], str] | None:
    nvml: Any = import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        count = nvml.nvmlDeviceGetCount()
        cards = [_nvml_card(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]
        version = nvml.nvmlSystemGetCudaDriverVersion()
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
    return (cards, f"{version // 1000}.{version % 1000 // 10}") if cards else None


def _nvml_card(nvml: Any, handle: Any) -> GpuInfo:
    def value(function: Callable[..., Any], default: Any, **options: Any) -> Any:
        try:
            return function(handle, **options)
        except nvml.NVMLError:  # a card or driver without it
            return default

    # the older form counts the driver's own memory as used
    memory = value(nvml.nvmlDeviceGetMemoryInfo, None, version=nvml.nvmlMemory_v2)
    memory = memory or value(nvml.nvmlDeviceGetMemoryInfo, None)
    major, minor = value(nvml.nvmlDeviceGetCudaComputeCapability, (0, 0))
    return GpuInfo(
        plain(value(nvml.nvmlDeviceGetName, "NVIDIA GPU")),
        "nvidia",
        memory=memory.total // _MIB if memory else 0,
        used=memory.used // _MIB if memory else 0,
        capability=10 * major + minor,
        throttle=value(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, 0),
        width=value(nvml.nvmlDeviceGetCurrPcieLinkWidth, 0),
    )


def _output(run: Run, command: list[str], troubles: list[ToolError]) -> str:
    """A tool's output; "" and a trouble where it fails, no trouble where it is absent."""
    try:
        return run(command)
    except FileNotFoundError:
        return ""
    except subprocess.TimeoutExpired:
        message = f"no answer within {TIMEOUT:g} seconds"
    except subprocess.CalledProcessError as error:
        message = str(error.output or error.stderr or f"exit code {error.returncode}")
    except (OSError, ValueError) as error:
        message = str(error)
    troubles.append(ToolError(command[0], plain(message)))
    return ""


def _query_nvidia_smi(run: Run, troubles: list[ToolError]) -> tuple[list[GpuInfo], str]:
    text = _output(run, ["nvidia-smi", f"--query-gpu={FIELDS}", _FORMAT], troubles)
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines()]
    cards = [
        GpuInfo(plain(name), "nvidia", _number(total), _number(used), round(10 * _number(level)))
        for name, total, used, level in (row for row in rows if len(row) == 4 and row[0])
    ]
    cuda = _CUDA.search(_output(run, ["nvidia-smi"], [])) if cards else None
    return cards, cuda[1] if cuda else ""


def _number(text: str) -> float:
    """The number that a tool prints; 0 for "[N/A]"."""
    try:
        value = float(text)
    except ValueError:
        return 0
    return value if 0 <= value < 2**40 else 0


def _query_rocm_smi(run: Run, troubles: list[ToolError]) -> list[GpuInfo]:
    text = _output(run, _ROCM, troubles)
    try:
        answer = json.loads(text[text.index("{") :])  # warnings may precede it
    except (ValueError, RecursionError):
        return []
    rows = [as_object(row) for name, row in sorted(answer.items()) if name.startswith("card")]
    cards = [_amd_card(row) for row in rows if row]
    if all(card.gfx for card in cards):
        return cards
    agents = _AGENT.findall(_output(run, ["rocminfo"], []))
    if len(agents) != len(cards):
        return cards
    return [replace(card, gfx=gfx) for card, gfx in zip(cards, agents, strict=True)]


def _amd_card(row: dict[str, Any]) -> GpuInfo:
    values = {str(key).lower(): str(value) for key, value in row.items()}
    name = values.get("card series") or values.get("card model") or "AMD GPU"
    return GpuInfo(
        plain(name),
        "amd",
        memory=_number(values.get("vram total memory (b)", "")) / _MIB,
        used=_number(values.get("vram total used memory (b)", "")) / _MIB,
        gfx=plain(values.get("gfx version", "")),
    )
