"""Options of engines inside the text of a step: which a release accepts, and what they change."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from salient.plan.engine_options import ENGINES, Kind, Release, accepts, has_table, span_text

from .serving.server_arguments import IN_SGLANG, OTHER_SPELLINGS

Action = Literal["set", "drop", "lower", "raise"]
_MENTION = re.compile(
    r"(?<![\w/-])(?P<option>--[a-z][\w-]*|(?<!\$)\b(?:VLLM|SGLANG)_[A-Z0-9_]+)"
    r"(?:[ =](?P<value>[\w.+]*[\w+][\w.+-]*(?<![.-])))?"
)
_NAMES_RELEASE = re.compile(r"\b(?:vLLM|SGLang) (?:before )?\d")
# Commands of other programs, whose options are their own.
_OTHER_PROGRAM = re.compile(
    r"(?<![\w/.-])(?:salient|pip|uv|docker|podman|hf|huggingface-cli|ray|conda|apt|git|cmake|curl"
    r"|llama-[a-z]+|ollama|nvidia-smi|text-generation-launcher)\s+(?!serve\b)"
    r"(?:(?!, (?:or|and) )[^`;\n])*"
)
_CLAUSE_END = re.compile(r"[.;:](?=\s|$)|(?<=\W)[Oo]r (?=[a-z-])")
_ACTIONS: tuple[tuple[Action, re.Pattern[str]], ...] = (
    ("drop", re.compile(r"\b(?:drop|remove|without|unset|omit|delete|leave out|not)\b", re.I)),
    ("lower", re.compile(r"\b(?:lower|reduce|halve|decrease|shorten|smaller)\b", re.I)),
    ("raise", re.compile(r"\b(?:raise|increase|enlarge|more|higher|larger|longer)\b", re.I)),
)
CHOSEN = ("quantization", "kv_cache_dtype", "dtype")  # options whose values are words


@dataclass(frozen=True)
class OptionChange:
    """What a text does to an option, by vLLM's name. value: "" where the text has none"""

    option: str
    action: Action
    value: str = ""

    def contradicts(self, other: "OptionChange") -> bool:
        """Whether both cannot be done."""
        if self.option != other.option:
            return False
        if self.action == other.action == "set":
            return self.option in CHOSEN and self.value != other.value
        return {self.action, other.action} in ({"lower", "raise"}, {"set", "drop"})


@dataclass(frozen=True)
class _Mention:
    """An option or variable in a text. option: as written   text: with its value"""

    start: int
    end: int
    kind: Kind
    option: str
    value: str
    text: str

    @property
    def name(self) -> str:
        return self.option.removeprefix("--").replace("-", "_")


def _mentions(text: str) -> Iterator[_Mention]:
    """In the order of the text, without those of other programs' commands."""
    others = [match.span() for match in _OTHER_PROGRAM.finditer(text)]
    for match in _MENTION.finditer(text):
        if not any(first <= match.start() < last for first, last in others):
            kind: Kind = "options" if match[0].startswith("--") else "variables"
            option, value = match["option"], match["value"] or ""
            yield _Mention(match.start(), match.end(), kind, option, value, match[0])


def _in_vllm(name: str) -> str:
    return next((ours for ours, theirs in IN_SGLANG.items() if name in theirs), name)


def _engines_of(one: _Mention) -> list[str]:
    """The engines with a release that has the option or variable."""
    return [name for name in ENGINES if accepts(name, one.name, None, one.kind)]


def changes(text: str) -> list[OptionChange]:
    """What a step changes. A clause begins with its verb: "Raise --x", "Drop --y"."""
    results: list[OptionChange] = []
    for one in _mentions(text):
        if one.kind == "variables" or not _engines_of(one):
            continue
        clause = _CLAUSE_END.split(text[: one.start])[-1]
        action = _last_verb(clause)
        is_value = one.name in CHOSEN or re.fullmatch(r"[\d.]+", one.value)
        value = one.value if is_value and action in ("set", "drop") else ""
        results.append(OptionChange(_in_vllm(one.name), action, value))
    return results


def _last_verb(clause: str) -> Action:
    last, result = -1, _ACTIONS[0][0]
    for action, verb in _ACTIONS:
        for match in verb.finditer(clause):
            if match.start() > last:
                last, result = match.start(), action
    return result if last >= 0 else "set"


def adapted(text: str, engine: str | None, release: Release | None) -> str:
    """The text with the options of an engine's release, "" if it lacks one without a replacement.

    Options that no engine has belong to other programs and stay. Without a release, the releases
    of an option are appended where not all have it.
    """
    spans: list[str] = []
    for one in reversed(list(_mentions(text))):
        engines = _engines_of(one)
        if not engines:
            continue
        target = engine or engines[0]
        spelling = _spelling(one, target, release if engine else None)
        if not spelling:
            return ""
        if spelling != text[one.start : one.end]:
            text = text[: one.start] + spelling + text[one.end :]
        elif release is None and has_table(target):
            spans.append(span_text(target, one.name, one.kind))
    limited = [span for span in spans if span]
    if limited and not _NAMES_RELEASE.search(text):
        return f"{text.rstrip('.')} ({'vLLM' if engine != 'sglang' else 'SGLang'} {limited[0]})."
    return text


def _spelling(one: _Mention, engine: str, release: Release | None) -> str:
    """The option or variable as the release spells it, with its value; "" if it has none."""
    if not has_table(engine):
        return ""
    if accepts(engine, one.name, release, one.kind):
        value = f"{one.name} {one.value}"
        foreign = one.name in CHOSEN and any(accepts(e, value, None, "values") for e in ENGINES)
        return "" if foreign and not accepts(engine, value, release, "values") else one.text
    if engine == "sglang":
        names = IN_SGLANG.get(one.name, [])
        name = next((name for name in names if accepts(engine, name, release)), "")
        return one.text.replace(one.option, f"--{name.replace('_', '-')}") if name else ""
    return other_spelling(engine, one.name, one.value, release)


def other_spelling(engine: str, name: str, value: str, release: Release | None) -> str:
    """What replaces an option or variable in a release without it, "" if nothing does."""
    other = OTHER_SPELLINGS.get(name, "") if engine == "vllm" else ""
    if not value:
        other = other.replace("={value}", "").replace(" {value}", "")
    replacement = next(iter(_mentions(other)), None)
    if not replacement or not accepts(engine, replacement.name, release, replacement.kind):
        return ""
    return other.format(value=value)
