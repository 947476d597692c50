"""Request bodies gone wrong: seeded changes of good ones, of their bytes and of their values."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x00",
    "\u202e",
    "a" * 3000,
    "\U0001d518\U0001f600",
    [],
    [[]],
    [None],
    [0],
    [-1],
    [10**9],
    ["a", 1],
    [[1, 2], "a"],
    {},
    {"": None},
    {"type": "text"},
    {"role": "user"},
)
NAMES = (
    "model",
    "prompt",
    "messages",
    "n",
    "stream",
    "stream_options",
    "stop",
    "stop_token_ids",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "response_format",
    "best_of",
    "echo",
    "suffix",
    "logit_bias",
    "tools",
    "tool_choice",
    "user",
    "ignore_eos",
    "add_special_tokens",
    "unheard_of",
    "__class__",
)
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "one two", "max_tokens": 2, "temperature": 0},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 2,
        "temperature": 0,
    },
    "/tokenize": {"prompt": "one two"},
}


def mutated(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` pairs of a path and a body."""
    chance = random.Random(seed)
    for _ in range(count):
        path = chance.choice(list(GOOD))
        body = copy.deepcopy(GOOD[path])
        for _ in range(chance.randint(1, 3)):
            body = _other_value(body, chance)
        # half a surrogate pair and NaN are spelt as JSON libraries of other languages do
        written = json.dumps(body).encode()
        yield path, _other_bytes(written, chance) if chance.random() < 0.3 else written


def _other_value(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A field that is odd, missing, new, or deep inside."""
    kind = chance.randrange(5)
    name = chance.choice(list(body) or NAMES)
    if kind == 0:
        body.pop(name, None)
    elif kind == 1:
        body[chance.choice(NAMES)] = chance.choice(ODD)
    elif kind == 2:
        body[name] = chance.choice(ODD)
    elif kind == 3:
        deep: Any = chance.choice(ODD)
        for _ in range(chance.choice((1, 3, 300))):
            deep = [deep] if chance.random() < 0.5 else {"a": deep}
        body[chance.choice(NAMES)] = deep
    elif isinstance(body.get("messages"), list) and body["messages"]:
        message = chance.choice(body["messages"])
        if isinstance(message, dict):
            message[chance.choice(("role", "content", "name"))] = chance.choice(ODD)
    return body


def _other_bytes(body: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut off, doubled, or of no sense."""
    kind, changed = chance.randrange(4), bytearray(body)
    if kind == 0:
        for _ in range(chance.randint(1, 5)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    elif kind == 1:
        del changed[chance.randrange(len(changed)) :]
    elif kind == 2:
        changed = changed * 2
    else:
        changed = bytearray(chance.randbytes(chance.randint(0, 300)))
    return bytes(changed)
