"""The size of a JSON text before anything is built of it: depth, objects, strings, values.

`json.loads` holds the interpreter's lock from beginning to end, and takes seconds for eight
megabytes of `{},{},...`. Counting with NumPy, a part at a time, takes milliseconds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salient.core.errors import RequestError

PART = 2**19  # bytes counted at once
SHORT = 2**12  # bytes of a text that is not worth counting


@dataclass(frozen=True)
class JsonSize:
    """depth: of nested lists and objects   containers: lists and objects   keys: of all objects"""

    depth: int = 0
    containers: int = 0
    keys: int = 0
    strings: int = 0
    values: int = 0


MOST = JsonSize(depth=256, containers=2**14, keys=2**15, strings=2**15, values=2**19)


def check_size(data: bytes, most: JsonSize = MOST) -> None:
    """Raise RequestError for a JSON text that is larger than `most` in any respect."""
    if len(data) <= SHORT:
        return
    size = json_size(data)
    for name in JsonSize.__dataclass_fields__:
        count, limit = getattr(size, name), getattr(most, name)
        if count > limit:
            what = "nested levels" if name == "depth" else name
            raise RequestError(
                f"The body has {count} {what}; this server reads up to {limit}. Send less in one "
                "request."
            )


def json_size(data: bytes) -> JsonSize:
    """An upper bound of the size of `data`; of a text that is no JSON, any figures."""
    if b"\\" in data:  # an escaped quote ends no string
        data = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    counts: dict[str, int] = dict.fromkeys(("containers", "keys", "commas", "quotes"), 0)
    level = deepest = inside = 0
    for start in range(0, len(data), PART):
        part = np.frombuffer(data, np.uint8, min(PART, len(data) - start), start)
        quotes = part == ord('"')
        # 1 from the quote that opens a string to the character before the one that closes it
        within = (np.cumsum(quotes, dtype=np.int32) + inside) & 1
        outside = within == 0
        opened = _any_of(part, b"[{") & outside
        levels = np.cumsum(
            opened.astype(np.int8) - (_any_of(part, b"]}") & outside), dtype=np.int32
        )
        deepest = max(deepest, level + int(levels.max(initial=0)))
        level += int(levels[-1])
        inside = int(within[-1])
        counts["quotes"] += int(np.count_nonzero(quotes))
        counts["containers"] += int(np.count_nonzero(opened))
        counts["keys"] += int(np.count_nonzero((part == ord(":")) & outside))
        counts["commas"] += int(np.count_nonzero((part == ord(",")) & outside))
    return JsonSize(
        deepest,
        counts["containers"],
        counts["keys"],
        (counts["quotes"] + 1) // 2,
        counts["commas"] + counts["containers"] + 1,
    )


def _any_of(part: NDArray[np.uint8], characters: bytes) -> NDArray[np.bool_]:
    first, second = characters
    return (part == first) | (part == second)
