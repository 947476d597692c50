"""Names that are no device of the catalogue: what to answer.

Accelerators that plan has no figures of (accelerators.json), architectures, similar names.
"""

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from .gpus import Gpu, catalogue
from .name_keys import SIZE, rows_by_name, simplified

EXAMPLES = ("RTX 4090", "H100 SXM", "L40S", "MI300X", "M3 Max")  # where no name is similar


@dataclass(frozen=True)
class _Accelerator:
    """Hardware that is known and not planned. gb: nominal memory by a pattern of the name"""

    title: str
    match: re.Pattern[str]
    engine: str
    gb: dict[str, float]


def of_architecture(text: str) -> list[Gpu]:
    if not text:
        return []
    capability = re.fullmatch(r"(?:sm ?|compute capability )(\d{1,2})\.?(\d)a?", text, re.A)
    wanted = int(capability[1] + capability[2]) if capability else -1
    names = {text, text.removesuffix(" lovelace"), text.removeprefix("nvidia ")}
    return [
        gpu
        for gpu in catalogue()
        if gpu.capability == wanted or gpu.gfx == text or gpu.architecture.lower() in names
    ]


@cache
def _accelerators() -> tuple[_Accelerator, ...]:
    text = Path(__file__).with_name("accelerators.json").read_text(encoding="utf-8")
    return tuple(
        _Accelerator(row["title"], re.compile(row["match"]), row["engine"], row.get("gb", {}))
        for row in json.loads(text)
    )


def unknown_message(shown: str, text: str) -> str:
    """The message for a name without figures."""
    for one in _accelerators():
        if one.match.search(text):
            size = next((gb for pattern, gb in one.gb.items() if re.search(pattern, text)), None)
            memory = f"{size:g}" if size else "GB"
            return (
                f"{shown!r} is {one.title}: known, but not planned, as plan has no rules for its "
                f"kernels; {one.engine}. --vram {memory} plans its memory alone."
            )
    if SIZE.fullmatch(text):
        return f"Unknown device {shown!r}. A memory alone is --vram {shown.strip()}."
    if re.search(r"\.(?:\d*x?large|metal)|^standard|-standard-|gpu-\d+g$", text):
        return (
            f"Unknown machine {shown!r}. Name its GPUs and their number, as '4xA10G', or give the "
            "memory of one: --vram GB works without a catalogue."
        )
    return (
        f"Unknown device {shown!r}. Try one of: {', '.join(_nearest(text))}. "
        "Or give its memory alone: --vram GB works without a catalogue."
    )


def _nearest(text: str) -> list[str]:
    """Names of the five devices that are spelled most like `text`."""
    index = rows_by_name()
    keys = get_close_matches(simplified(text), index, n=len(index), cutoff=0.4)
    return list(dict.fromkeys([gpu.name for key in keys for _, gpu in index[key]] + [*EXAMPLES]))[
        :5
    ]
