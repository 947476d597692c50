"""Requirements of a deployment: `--require ttft=1s,decode=30,memory=20GB,tune`."""

import math
import re
from dataclasses import dataclass

from salient.core.errors import RequestError

# unit -> factor to seconds, tokens a second, bytes
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3}
_RATES = {"": 1.0, "tok/s": 1.0, "t/s": 1.0, "/s": 1.0}
_BYTES = {"": 1e9, "gb": 1e9, "gib": 2.0**30, "mb": 1e6, "mib": 2.0**20}
_UNITS = {"ttft": _SECONDS, "decode": _RATES, "throughput": _RATES, "memory": _BYTES}
_KNOWN = (
    "ttft=1s, decode=30 (tokens a second of one sequence), throughput=500 (of all), "
    "memory=20GB (of each GPU), tune (fine-tuning later)"
)


@dataclass(frozen=True)
class Requirements:
    """Bounds: seconds to the first token, tokens a second, bytes; None where there is none."""

    ttft: float | None = None
    decode: float | None = None
    throughput: float | None = None
    memory: float | None = None
    tune: bool = False

    @property
    def timed(self) -> bool:
        return (self.ttft, self.decode, self.throughput) != (None, None, None)


def parse_requirements(text: str) -> Requirements:
    """Read `--require`. Raises RequestError naming the part that does not fit."""
    bounds: dict[str, float | bool] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition("=")
        key = key.strip().lower()
        if key in bounds:
            raise RequestError(f"--require names {key!r} twice. Give each once.")
        bounds[key] = _bound(key, value.strip(), part)
    return Requirements(**bounds)  # pyright: ignore[reportArgumentType]


def _bound(key: str, value: str, part: str) -> float | bool:
    if key == "tune" and value.lower() in ("", "yes", "true"):
        return True
    number = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([a-z/]*)", value.lower())
    units = _UNITS.get(key)
    if units is None or not number or number[2] not in units:
        raise RequestError(f"--require does not take {part[:80]!r}. It takes {_KNOWN}.")
    bound = float(number[1]) * units[number[2]]
    if not 0 < bound < math.inf:
        raise RequestError(f"--require {part[:80]!r} is not a bound. Give a number above 0.")
    return bound
