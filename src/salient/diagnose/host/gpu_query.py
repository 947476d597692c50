"""GPUs as nvidia-smi and rocm-smi tell of them; a tool that is absent, fails or hangs is no error.

Left out: what the GPUs could do; `salient.plan.gpus` knows that by their names.
"""

import contextlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salient.diagnose.env_vars import plain

from .environment import GpuInfo, ToolError

Run = Callable[[list[str]], str]
TIMEOUT = 5.0  # seconds that a tool has
FIELDS = (
    "name,memory.total,memory.used,driver_version,compute_cap,power.limit,"
    "clocks_throttle_reasons.active,pcie.link.gen.current,pcie.link.width.current"
)
FEWER_FIELDS = "name,memory.total,memory.used,driver_version"  # every driver's
_FORMAT = "--format=csv,noheader,nounits"
_ROCM = ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"]
_CUDA = re.compile(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)")
_AGENT = re.compile(r"^\s*Name:\s+(gfx[0-9a-f]+)\s*$", re.MULTILINE)
# a kernel driver that is loaded shows these, whether or not its tools are installed
DRIVER_FILES = (("nvidia", "/proc/driver/nvidia/version"), ("amd", "/dev/kfd"))


def run_program(command: list[str]) -> str:
    """What `command` prints within TIMEOUT.

    Raises OSError where it is absent, CalledProcessError where it fails, TimeoutExpired where it
    hangs: then it is killed, and not waited for if a broken driver holds it.
    """
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        if process.stdout:
            stack.callback(process.stdout.close)
        try:
            text, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output=text)
    return text


def read_cards(run: Run) -> tuple[tuple[GpuInfo, ...], str, tuple[ToolError, ...]]:
    """The GPUs of both vendors, the driver's CUDA version, and tools that did not answer."""
    troubles: list[ToolError] = []
    cards = _nvidia(run, troubles)
    text = _told(run, ["nvidia-smi"], []) if cards else ""
    cuda = _CUDA.search(text)
    cards += _amd(run, troubles)
    return tuple(cards), cuda[1] if cuda else "", tuple(troubles)


def drivers() -> tuple[str, ...]:
    """Vendors whose kernel driver is loaded here."""
    return tuple(vendor for vendor, file in DRIVER_FILES if Path(file).exists())


def _told(run: Run, command: list[str], troubles: list[ToolError]) -> str:
    """What the tool prints; "" and a trouble where it cannot, no trouble where it is absent."""
    try:
        return run(command)
    except FileNotFoundError:
        return ""
    except subprocess.TimeoutExpired:
        words = f"no answer within {TIMEOUT:g} seconds"
    except subprocess.CalledProcessError as error:
        words = str(error.output or error.stderr or f"exit code {error.returncode}")
    except (OSError, ValueError) as error:
        words = str(error)
    troubles.append(ToolError(command[0], plain(words)))
    return ""


def _nvidia(run: Run, troubles: list[ToolError]) -> list[GpuInfo]:
    for fields in (FIELDS, FEWER_FIELDS):
        failed: list[ToolError] = []
        text = _told(run, ["nvidia-smi", f"--query-gpu={fields}", _FORMAT], failed)
        if not any("not a valid field" in trouble.words for trouble in failed):
            break
    troubles += failed
    names = [*fields.split(",")]
    return [card for line in text.splitlines() if (card := _nvidia_card(names, line))]


def _nvidia_card(names: list[str], line: str) -> GpuInfo | None:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != len(names) or not parts[0]:
        return None
    told = dict(zip(names, parts, strict=True))
    return GpuInfo(
        plain(told["name"]),
        "nvidia",
        memory=_number(told["memory.total"]),
        used=_number(told["memory.used"]),
        driver=plain(told["driver_version"]),
        capability=round(10 * _number(told.get("compute_cap", ""))),
        power=_number(told.get("power.limit", "")),
        throttle=_bits(told.get("clocks_throttle_reasons.active", "")),
        generation=round(_number(told.get("pcie.link.gen.current", ""))),
        width=round(_number(told.get("pcie.link.width.current", ""))),
    )


def _number(text: str) -> float:
    """The number that nvidia-smi prints; 0 for its "[N/A]"."""
    try:
        value = float(text)
    except ValueError:
        return 0
    return value if 0 <= value < 2**40 else 0


def _bits(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _amd(run: Run, troubles: list[ToolError]) -> list[GpuInfo]:
    text = _told(run, _ROCM, troubles)
    try:
        told = json.loads(text[text.index("{") :])  # warnings may stand before it
    except (ValueError, RecursionError):
        return []
    rows = [row for name, row in sorted(told.items()) if name.startswith("card")]
    cards = [_amd_card(row) for row in rows if isinstance(row, dict)]
    if all(card.gfx for card in cards):
        return cards
    agents = _AGENT.findall(_told(run, ["rocminfo"], []))
    if len(agents) != len(cards):
        return cards
    return [
        GpuInfo(c.name, "amd", c.memory, c.used, gfx=g) for c, g in zip(cards, agents, strict=True)
    ]


def _amd_card(row: dict[str, Any]) -> GpuInfo:
    held = {str(key).lower(): str(value) for key, value in row.items()}
    name = held.get("card series") or held.get("card model") or "AMD GPU"
    mib = 2**20
    return GpuInfo(
        plain(name),
        "amd",
        memory=_number(held.get("vram total memory (b)", "")) / mib,
        used=_number(held.get("vram total used memory (b)", "")) / mib,
        gfx=plain(held.get("gfx version", "")),
    )
