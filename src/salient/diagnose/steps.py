"""Steps of a finding: what to do, and for which servers.

In a table a step is a text, or a table with its conditions on `ServerFacts`:

    do = [
        "Check the files: salient doctor {model}",
        { step = "Lower --tensor-parallel-size.", tp = ">1" },
        { step = "Serve with --dtype float16.", dtype = "!float16", capability = "<8.0" },
        { step = "Drop --enforce-eager.", arguments = { enforce_eager = true } },
    ]

The options of engines in a text are those of the server's engine and release (option_text.py).
A condition on an unknown fact holds, unless the fact is listed in `known`. A parenthesis or a
sentence whose value is unknown is left out; a step of which nothing is left, too.
"""

import operator
import re
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from string import Formatter
from typing import TypeGuard, cast

from salient.plan.engine_options import Release, has_table

from .finding import Finding
from .option_text import OptionChange, adapted, changes

# a condition: equality, "!value" for its opposite, "<8.0" for an order, a list for one of several
Wanted = str | bool | int | float | list[str]
DTYPES = {"half": "float16", "float": "float32"}
FULL_UTILIZATION = 0.97  # above, the driver and other processes run out of memory
UNKNOWN_TEXT = "unknown"  # a group that a line does not have
_ORDER = re.compile(r"(<=|>=|<|>)\s*(\d+(?:\.\d+)*)")
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_RELEASE = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
_PARENTHESIS = re.compile(r"\s*\((?:[^(){}]|\{\{|\}\}|\{[^{}]*\})*\)")
_SENTENCE = re.compile(r"(?<=[.;])\s+")


@dataclass(frozen=True)
class ServerFacts:
    """What is known about a server; None where it is not.

    engine: "vllm", "sglang", "llama.cpp", "ollama", "tgi", "transformers"
    version: its release, (0, 10, 2)   device: "nvidia", "amd", "intel" or "cpu"
    capability: CUDA compute capability, 8.6   memory: GiB of one device
    tp: tensor parallelism   dtype: "float16", "bfloat16", "float32"
    method: the checkpoint's quantization method, "" for 16-bit weights
    group, symmetric: of its weights   experts: whether it has any   draft: whether one is loaded
    utilization: the share of the memory that the engine takes
    arguments: by vLLM's names; complete: those that are not in it have their default
    """

    engine: str | None = None
    version: Release | None = None
    device: str | None = None
    capability: float | None = None
    memory: float | None = None
    tp: int | None = None
    dtype: str | None = None
    method: str | None = None
    group: int | None = None
    symmetric: bool | None = None
    experts: bool | None = None
    draft: bool | None = None
    utilization: float | None = None
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    complete: bool = False

    def or_else(self, other: "ServerFacts") -> "ServerFacts":
        """These facts; those of `other` where they are unknown."""
        known = {name: v for name in _FACTS if (v := getattr(self, name)) is not None}
        arguments = {**other.arguments, **self.arguments}
        complete = self.complete or other.complete
        return replace(other, **known, arguments=arguments, complete=complete)

    def values(self) -> dict[str, object]:
        """Values for the braces of steps: {server.tp}, {argument[max_num_seqs]}, {tp_doubled}."""
        arguments = defaultdict[str, object](lambda: None, self.arguments)
        doubled = 2 * (self.tp or 1)
        return {"server": self, "argument": arguments, "tp_doubled": doubled}

    def fact(self, name: str) -> object:
        return getattr(self, name)

    def argument(self, name: str) -> object:
        """The value of an argument: None if unknown, False if it is not set."""
        value = self.arguments.get(name)
        return False if value is None and self.complete else value


UNKNOWN_SERVER = ServerFacts()
_FACTS = [one.name for one in fields(ServerFacts) if one.name not in ("arguments", "complete")]
_KEYS = {*_FACTS, "since", "until", "known", "arguments"} - {"version"}


@dataclass(frozen=True)
class Conditions:
    """When a step or a row applies.

    facts: the wanted value of each fact   arguments: of each argument
    since, until: the releases of `engine`, vLLM unless another is wanted; the last one excluded
    known: facts that must be known
    """

    facts: Mapping[str, Wanted] = field(default_factory=dict[str, Wanted])
    arguments: Mapping[str, Wanted] = field(default_factory=dict[str, Wanted])
    since: Release | None = None
    until: Release | None = None
    known: tuple[str, ...] = ()

    @property
    def other_engine(self) -> bool:
        """Whether they are for an engine whose options are not known here."""
        engine = self.facts.get("engine")
        return isinstance(engine, str) and engine[:1] != "!" and not has_table(engine)

    def hold(self, server: ServerFacts) -> bool:
        """Whether they may hold: an unknown fact contradicts nothing."""
        if any(server.fact(name) is None for name in self.known):
            return False
        wanted = [(server.fact(name), value) for name, value in self.facts.items()]
        wanted += [(server.argument(name), value) for name, value in self.arguments.items()]
        return self._in_release(server) and all(
            actual is None or fits(actual, value) for actual, value in wanted
        )

    def _in_release(self, server: ServerFacts) -> bool:
        if self.since is None and self.until is None:
            return True
        engine = self.facts.get("engine", "vllm")
        if server.engine is not None and not fits(server.engine, engine):
            return False
        if server.version is None:
            return True
        first, last = self.since or (0,), self.until or (1 << 30,)
        return first <= server.version and server.version[: len(last)] < last


ALWAYS = Conditions()


@dataclass(frozen=True)
class Step:
    """A text with braces, and the servers that it is for."""

    text: str
    conditions: Conditions = ALWAYS


def release_of(name: str) -> Release | None:
    """(0, 10, 2) of "0.10.2" or "v0.10.2rc1+cu128", None of anything else."""
    match = _RELEASE.match(name)
    return tuple(int(part) for part in match.groups() if part) if match else None


def read_conditions(row: Mapping[str, object]) -> Conditions:
    """Conditions of a table. Raises TypeError for an unknown key."""
    if unknown := row.keys() - _KEYS:
        raise TypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(sorted(_KEYS))}")
    known = cast("list[str]", row.get("known", []))
    if unknown := set(known) - set(_FACTS):
        raise TypeError(f"known = {sorted(unknown)}: there are {', '.join(_FACTS)}")
    bounds = (row.get("since"), row.get("until"))
    since, until = (release_of(str(bound)) if bound else None for bound in bounds)
    wanted = cast("Mapping[str, Wanted]", row)
    arguments = cast("Mapping[str, Wanted]", row.get("arguments", {}))
    facts = {key: value for key, value in wanted.items() if key in _FACTS}
    return Conditions(facts, arguments, since, until, tuple(known))


def read_step(item: str | Mapping[str, object]) -> Step:
    """A step of a table. Raises TypeError for a table without `step` or with an unknown key."""
    if isinstance(item, str):
        return Step(item)
    text = item.get("step")
    if not isinstance(text, str):
        raise TypeError(f"{dict(item)} has no text: step = '...'")
    return Step(text, read_conditions({key: v for key, v in item.items() if key != "step"}))


def fits(actual: object, wanted: Wanted) -> bool:
    """Whether a known value is the wanted one."""
    if isinstance(wanted, list):
        return any(fits(actual, one) for one in wanted)
    if isinstance(wanted, str) and wanted.startswith("!"):
        return not fits(actual, wanted[1:])
    if isinstance(wanted, str) and (order := _ORDER.fullmatch(wanted)):
        return _is_number(actual) and _ORDERS[order[1]](actual, float(order[2]))
    if isinstance(wanted, str):
        return isinstance(actual, str) and actual.lower() == wanted.lower()
    return actual == wanted and isinstance(actual, bool) == isinstance(wanted, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def step_texts(
    steps: Iterable[Step], server: ServerFacts, values: Mapping[str, object]
) -> tuple[str, ...]:
    """The steps that apply to a server, with their values and the options of its release.

    A step that changes nothing is left out, and one that contradicts an earlier one.
    """
    values = ChainMap(cast("dict[str, object]", values), server.values())
    texts: list[str] = []
    done: list[OptionChange] = []
    for step in steps:
        text = fill(step.text, values) if step.conditions.hold(server) else ""
        if not step.conditions.other_engine:
            text = adapted(text, server.engine, server.version)
        planned = changes(text)
        needless = bool(planned) and not any(_alters(change, server) for change in planned)
        contradicts = any(new.contradicts(old) for new in planned for old in done)
        if text and text not in texts and not needless and not contradicts:
            texts.append(text)
            done += planned
    return tuple(texts)


def consistent(findings: Iterable[Finding]) -> list[Finding]:
    """The findings without the steps that contradict one of an earlier finding."""
    results: list[Finding] = []
    done: list[OptionChange] = []
    for finding in findings:
        steps: list[str] = []
        planned: list[OptionChange] = []
        for step in finding.do:
            new = [] if step.startswith(("- ", "+ ")) else changes(step)
            if not any(one.contradicts(other) for one in new for other in done):
                steps.append(step)
                planned += new
        done += planned
        results.append(replace(finding, do=tuple(steps)))
    return results


def _alters(change: OptionChange, server: ServerFacts) -> bool:
    """Whether a change makes a difference to the server, as far as known."""
    facts = {
        "tensor_parallel_size": server.tp,
        "dtype": server.dtype,
        "gpu_memory_utilization": server.utilization,
    }
    actual = facts.get(change.option)
    actual = server.argument(change.option) if actual is None else actual
    if actual is None:
        return True
    if change.action == "drop":
        return actual is not False
    if change.action == "set":
        wanted = DTYPES.get(change.value, change.value)
        return wanted != str(actual) if wanted else actual is not True
    if change.option == "tensor_parallel_size" and change.action == "lower":
        return actual != 1
    full = change.option == "gpu_memory_utilization" and change.action == "raise"
    return not (full and _is_number(actual) and actual >= FULL_UTILIZATION)


def fill(text: str, values: Mapping[str, object]) -> str:
    """`text` with its values, without the parentheses and sentences whose value is unknown."""
    text = without_unknown(text, values)
    sentences = [one for one in _SENTENCE.split(text) if not _has_unknown(one, values)]
    if not sentences:
        return ""
    filled = " ".join(sentences).format_map(values)
    return filled.rstrip("; ") if len(sentences) < len(_SENTENCE.split(text)) else filled


def without_unknown(text: str, values: Mapping[str, object]) -> str:
    """The template without the parentheses whose value is unknown."""
    return _PARENTHESIS.sub(lambda m: "" if _has_unknown(m[0], values) else m[0], text)


def _has_unknown(text: str, values: Mapping[str, object]) -> bool:
    names = [name for _, name, _, _ in Formatter().parse(text) if name]
    return any(_value(name, values) in (None, UNKNOWN_TEXT) for name in names)


def _value(name: str, values: Mapping[str, object]) -> object:
    return Formatter().get_field(name, (), values)[0]
