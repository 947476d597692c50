"""Any row, however odd, becomes tokens with all of its text, or is refused by name."""

import copy
import random
from typing import Any

import pytest

from helpers.chat_templates import (
    ANSWER,
    BOTH,
    CALL,
    CHATML,
    GEMMA,
    MISTRAL,
    QWEN_THINKING,
    RESULT,
    SMOLVLM,
    USER,
    WEATHER,
    with_template,
)
from salient.core.conversations import to_document
from salient.core.errors import CalibrationError
from salient.models.chat_template import content_text
from salient.models.tokens import token_ids

TEMPLATES = [CHATML, GEMMA, MISTRAL, SMOLVLM, QWEN_THINKING, BOTH, None]
SYSTEM = {"role": "system", "content": "Be kind."}
ROWS: list[Any] = [
    {"messages": [SYSTEM, USER, ANSWER]},
    {"messages": [USER, CALL, RESULT, ANSWER], "tools": [WEATHER]},
    {"messages": [USER, ANSWER | {"reasoning_content": "Winter there."}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why so?"}]}, ANSWER]},
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
    {"instruction": "Add these.", "input": "1 2", "output": "That is 3."},
    {"prompt": [USER], "completion": [ANSWER], "documents": [{"title": "Oslo"}]},
    {"text": "One text of words."},
]
ODD: list[Any] = [None, 0, 1.5, True, "", " ", "word", "\x00", [], {}, [None], [[]], {"a": None}]
ODD += [["a", "b"], [{"type": "text"}], [{"type": "image"}], "\ud83d", "{}", "[1", {"role": 1}]
ODD += [float("nan"), 10**30, b"bytes", "system", [{"role": "user"}], "x" * 10**5]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values in a row."""
    inner: list[tuple] = []
    if isinstance(value, dict):
        inner = [each for key in value for each in places(value[key], (*path, key))]
    elif isinstance(value, list):
        inner = [each for n, item in enumerate(value) for each in places(item, (*path, n))]
    return [path, *inner]


def mutated(seed: int) -> Any:
    """A row with one or two values replaced, removed or doubled."""
    rng = random.Random(seed)
    row = copy.deepcopy(rng.choice(ROWS))
    for _ in range(rng.choice((1, 1, 2))):
        path = rng.choice(places(row))
        if not path:
            return rng.choice(ODD) if rng.random() < 0.2 else row
        home = row
        for key in path[:-1]:
            home = home[key]
        action = rng.random()
        if action < 0.2:
            del home[path[-1]]
        elif action < 0.3 and isinstance(home, list):
            home.append(copy.deepcopy(home[path[-1]]))
        elif action < 0.4 and isinstance(home, dict):
            home[rng.choice(("name", "content", "role", "odd", "tools"))] = home.pop(path[-1])
        else:
            home[path[-1]] = copy.deepcopy(rng.choice(ODD))
    return row


@pytest.mark.parametrize("template", TEMPLATES, ids=range(len(TEMPLATES)))
def test_a_mutated_row_is_whole_or_refused(template):
    tokenizer = with_template(template)
    whole, faults = 0, []
    for seed in range(150):
        row = mutated(seed)
        try:
            document = to_document(row, "rows.jsonl, line 3")
            text = tokenizer.decode(token_ids(document, tokenizer))
        except CalibrationError as error:
            faults.append(str(error))
            continue
        whole += 1
        contents = [content_text(m.get("content")).split() for m in document.messages]
        for content in [document.text.split(), *contents]:
            assert all(word in text for word in content[:50]), row
    assert all(fault.startswith("rows.jsonl, line 3: ") for fault in faults)
    assert all(len(fault) < 1500 for fault in faults)
    assert min(whole, len(faults)) > 20
