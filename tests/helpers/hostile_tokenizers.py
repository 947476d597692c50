"""Tokenizers that grow, run for long or are of another form, and hostile chat templates."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.hostile_values import ODD

TEMPLATES = (
    "{% for i in range(10**9) %}{% endfor %}", "{{ 'a' * 10**10 }}", "{% for x in", "{{ messages[",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.getcwd() }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ raise_exception('\x1b[2J') }}",
    "{{ " + "(" * 3000 + ")" * 3000 + " }}", "{% if true %}" * 2000, "\x00", "",
    "{{ lipsum(10**6) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages | tojson(indent=10**9) }}",
    "{{ '%1000000000d' % 1 }}", "{{ (10**10)**(10**5) }}", "{{ undefined.x.y }}",
)  # fmt: skip


def tokenizer(folder: Path, chance: random.Random) -> str:
    """A tokenizer that grows, runs for long, or is of another form."""
    path = folder / "tokenizer.json"
    try:
        document = json.loads(path.read_bytes()) if path.is_file() else {}
        document["model"]["vocab"] = document["model"].get("vocab", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "tokenizer stays"
    kind = chance.choice(list(TOKENIZERS))
    try:
        TOKENIZERS[kind](document, chance)
    except (KeyError, TypeError, AttributeError):
        return "tokenizer stays"
    path.write_text(json.dumps(document))
    return f"tokenizer {kind}"


def _steps(steps: list[Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": steps}


def _replace(pattern: Any, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _token(number: int, text: str, **changes: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, "special": True, **flags, **changes}


def _processor(pieces: list[Any], token: str = "x") -> dict[str, Any]:
    special = {token: {"id": token, "ids": [1] * 1000, "tokens": ["<s>"] * 1000}}
    return {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": pieces,
        "special_tokens": special,
    }


_ONE = {"Sequence": {"id": "A", "type_id": 0}}
TOKENIZERS: dict[str, Callable[[Any, random.Random], Any]] = {
    "doubles": lambda t, c: t.update(
        normalizer=_steps([_replace({"String": "a"}, "a" * 10) for _ in range(12)])),
    "doubles e": lambda t, c: t.update(
        normalizer=_steps([_replace({"Regex": "[a-z]"}, "ee") for _ in range(40)])),
    "between": lambda t, c: t.update(
        normalizer=_steps([_replace({"Regex": ""}, "ab") for _ in range(30)])),
    "prepends": lambda t, c: t.update(
        normalizer=_steps([{"type": "Prepend", "prepend": "a" * 10**4} for _ in range(100)])),
    "replacement": lambda t, c: t.update(normalizer=_replace({"String": "e"}, "e" * 10**7)),
    "backtracks": lambda t, c: t.update(
        pre_tokenizer=_split("(a|a|[a-z ])*(b|[a-z ]|c)*([a-z ]+)*$\\d")),
    "backtracks in the normalizer": lambda t, c: t.update(normalizer=_replace(
        {"Regex": "^(([a-z ])+.)+[A-Z]([a-z])+$"}, "")),
    "pads": lambda t, c: t.update(padding={
        "strategy": {"Fixed": c.choice((10**9, 10**8, 2**62))}, "direction": "Right",
        "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}),
    "pads to a multiple": lambda t, c: t.update(padding={
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 10**9,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}),
    "truncates": lambda t, c: t.update(truncation={
        "direction": "Right", "max_length": c.choice((0, 1, 3, 10**12)), "strategy": "LongestFirst",
        "stride": c.choice((0, 2, 10**9))}),
    "post-processes": lambda t, c: t.update(
        post_processor=_processor([{"SpecialToken": {"id": "x", "type_id": 0}}] * 5_000 + [_ONE])),
    "repeats": lambda t, c: t.update(post_processor=_processor([_ONE] * 100_000)),
    "ids": lambda t, c: t["model"].update(vocab={w: 4 * 10**9 + i for i, w in enumerate("abc")}),
    "far id": lambda t, c: t["added_tokens"].append(_token(4 * 10**9, "<far>")),
    "same ids": lambda t, c: t["model"].update(vocab=dict.fromkeys(t["model"]["vocab"], 5)),
    "added": lambda t, c: t["added_tokens"].extend(
        _token(300 + i, f"<{i}>") for i in range(100_000)),
    "empty added": lambda t, c: t["added_tokens"].append(_token(300, "")),
    "long added": lambda t, c: t["added_tokens"].append(_token(300, "a" * 5_000_000)),
    "vocabulary": lambda t, c: t["model"]["vocab"].update({f"t{i}": i for i in range(1_500_000)}),
    "unigram": lambda t, c: t.update(model={
        "type": "Unigram", "unk_id": c.choice((0, None, 10**9)),
        "vocab": [["a" * (i % 3000 + 1), -1.0] for i in range(c.choice((0, 3, 20_000)))]}),
    "merges": lambda t, c: t["model"].update(merges=[["a", "b"]] * 100_000),
    "odd merges": lambda t, c: t["model"].update(merges=c.choice(ODD)()),
    "odd vocabulary": lambda t, c: t["model"].update(vocab=c.choice(ODD)()),
    "word level": lambda t, c: t.update(
        model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}),
    "decoder": lambda t, c: t.update(decoder={"type": "Sequence", "decoders": [
        _replace({"String": "a"}, "a" * 1000) for _ in range(5)]}),
    "strips": lambda t, c: t.update(
        decoder={"type": "Strip", "content": "a", "start": 10**18, "stop": 1}),
    "charsmap": lambda t, c: t.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "dropout": lambda t, c: t["model"].update(dropout=c.choice((0.5, 2.0, -1, "x"))),
    "no model": lambda t, c: t.pop("model"),
    "odd part": lambda t, c: t.update({c.choice(sorted(t)): c.choice(ODD)()}),
    "many steps": lambda t, c: t.update(normalizer=_steps([{"type": "NFKC"}] * 20_000)),
}  # fmt: skip


def template(folder: Path, chance: random.Random) -> str:
    """A chat template that hangs, grows, reaches out, or does not parse."""
    number = chance.randrange(len(TEMPLATES))
    path = folder / "tokenizer_config.json"
    if chance.random() < 0.6 or not path.is_file():
        path = folder / "chat_template.jinja"
        if path.is_file() or not (path.exists() or path.is_symlink()):
            path.write_text(TEMPLATES[number])
        return f"template {number}"
    try:
        document = json.loads(path.read_bytes())
        document["chat_template"] = chance.choice(
            (TEMPLATES[number], {"default": TEMPLATES[number]}, [TEMPLATES[number]],
             [{"name": "default", "template": TEMPLATES[number]}], [{"name": 1}],
             "{{ 1 }}" * 300_000)
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError):
        return "template stays"
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path.write_text(json.dumps(document))
    return f"template {number} in {path.name}"
