"""Rules: conditions on facts, and the findings that follow from them.

Log, serving settings, checkpoint and host each have tables of rules over their own facts;
`apply_rules` turns facts into findings. Where a finding does not follow from a condition on facts
(a line of a log, a pass over tensors), the table holds a `FindingTemplate`, and the code fills it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Generic, TypeVar

from salient.plan.vllm.versions import EVER, OLDEST, Version

from .finding import Certainty, Evidence, Finding, Level
from .steps import (
    ALWAYS,
    UNKNOWN_SERVER,
    Conditions,
    ServerFacts,
    Step,
    fill,
    step_texts,
    without_unknown,
)

SHOWN = 5  # places of a finding that become evidence
Place = tuple[str, str]  # where, and its text
Facts = TypeVar("Facts")


class Count(int):
    """A number that takes a noun as its format: f"{Count(3):linear}" is "3 linears"."""

    def __format__(self, spec: str) -> str:
        if len(spec) < 2 or not spec.replace(" ", "").isalpha():
            return super().__format__(spec)
        return f"{int(self)} {spec}" if self == 1 else f"{int(self)} {spec}s"


@dataclass(frozen=True)
class Match:
    """One case in which a rule applies.

    places: its evidence   items: the same where the rule has the text of a place
    values: for the braces of the template's texts
    steps: placed before the template's `do`, verbatim
    count: occurrences; None: the number of places
    level, certainty: override the template's
    """

    places: Sequence[Place] = ()
    values: Mapping[str, object] = field(default_factory=dict[str, object])
    steps: Sequence[str] = ()
    count: int | None = None
    level: Level | None = None
    certainty: Certainty | None = None
    items: Sequence[object] = ()


# What a condition returns. False, "", an empty sequence or None: the rule does not apply.
# A text fills the braces of {value}. Each match of a sequence becomes one finding; other sequences
# are the items of one finding, each a place of its evidence.
Outcome = Match | Sequence[object] | str | bool | None


@dataclass(frozen=True)
class FindingTemplate:
    """A finding with braces for the values of a case: {count}, {value}, or names of its own.

    {count:linear} is "1 linear" or "3 linears". Literal braces are doubled. A parenthesis with an
    unknown value is left out; in `why` and `do`, a sentence too.

    The fields are those of `Finding`.
    conditions: the servers that the row is for (`if` in a table)
    """

    id: str
    level: Level
    title: str
    _: KW_ONLY
    why: str = ""
    do: tuple[Step, ...] = ()
    certainty: Certainty = "certain"
    rank: int = 50
    conditions: Conditions = ALWAYS

    def finding(self, match: Match, server: ServerFacts = UNKNOWN_SERVER) -> Finding:
        """The finding of one case, with the steps that are for `server`."""
        count = max(1, len(match.places) if match.count is None else match.count)
        values = {"count": Count(count), **match.values}
        return Finding(
            id=self.id,
            level=match.level or self.level,
            title=without_unknown(self.title, values).format_map(values),
            certainty=match.certainty or self.certainty,
            why=fill(self.why, values),
            do=(*match.steps, *step_texts(self.do, server, values)),
            evidence=tuple(Evidence(*place) for place in match.places[:SHOWN]),
            count=count,
            rank=self.rank,
        )

    def at(
        self,
        places: Iterable[Place],
        *,
        count: int | None = None,
        steps: Sequence[str] = (),
        level: Level | None = None,
        certainty: Certainty | None = None,
        **values: object,
    ) -> list[Finding]:
        """The finding at `places`, [] if there is none."""
        places = list(places)
        match = Match(places, values, steps, count, level, certainty)
        return [self.finding(match)] if places else []


@dataclass(frozen=True)
class Rule(FindingTemplate, Generic[Facts]):
    """A finding and its condition.

    when: the cases of some facts; see `Outcome`
    where, text: a place of its evidence, where a match has no places: braces as in other texts, and
        {item}; no evidence without `where`
    since, until: the engine releases that it holds for, the last one excluded
    """

    when: Callable[[Facts], Outcome]
    _: KW_ONLY
    where: str = ""
    text: str = "{item}"
    since: Version = OLDEST
    until: Version = EVER

    def matches(self, facts: Facts) -> list[Match]:
        """The cases in which the rule applies to `facts`."""
        outcome = self.when(facts)
        if not outcome:
            return []
        if isinstance(outcome, Match):
            return [outcome]
        if isinstance(outcome, bool | str):
            return [Match(values={"value": outcome}, items=(outcome,))]
        return [one for one in outcome if isinstance(one, Match)] or [Match(items=outcome)]

    def _places(self, match: Match, values: Mapping[str, object]) -> Sequence[Place]:
        if match.places or not self.where:
            return match.places
        items = match.items or ("",)
        return [(self.where, self.text.format_map({**values, "item": item})) for item in items]

    def findings(
        self,
        facts: Facts,
        version: Version | None = None,
        values: Mapping[str, object] | None = None,
        server: ServerFacts = UNKNOWN_SERVER,
    ) -> list[Finding]:
        """The findings about `facts`; at most "likely" if they depend on an unknown `version`."""
        if version and not self.since <= max(version, OLDEST) < self.until:
            return []
        if not self.conditions.hold(server):
            return []
        limited = (self.since, self.until) != (OLDEST, EVER)
        unsure = version is None and limited
        findings: list[Finding] = []
        for match in self.matches(facts):
            certainty = match.certainty or self.certainty
            certainty = "likely" if unsure and certainty == "certain" else certainty
            known = {**(values or {}), **match.values}
            places = self._places(match, known)
            match = replace(match, places=places, values=known, certainty=certainty)
            findings.append(self.finding(match, server))
        return findings


def apply_rules(
    rules: Iterable[Rule[Facts]],
    facts: Facts,
    version: Version | None = None,
    values: Mapping[str, object] | None = None,
    server: ServerFacts = UNKNOWN_SERVER,
) -> list[Finding]:
    """The findings of all rules about `facts`, in the order of the rules.

    version: the engine's release, None if unknown   values: for braces, common to all rules
    server: for the conditions of rows and steps
    """
    return [one for rule in rules for one in rule.findings(facts, version, values, server)]
