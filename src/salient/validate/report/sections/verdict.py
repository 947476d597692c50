"""The verdict: one word, the sentence why, and each rule against its bound.

The word is never better than its rules: one that does not hold makes it a fail, whatever it said.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from salient.validate.report.charts.axis import Axis, linear
from salient.validate.report.charts.rows import Mark
from salient.validate.report.figures import (
    UNMEASURED,
    Form,
    between,
    change,
    ends,
    finely,
    nats,
    number,
    rate,
    ratio,
    seconds,
    short,
    show,
    tick,
)
from salient.validate.report.reading import Data, part, rows, texts, words
from salient.validate.report.text_format import line

# measurement -> its name for people, how its figures are written
MEASURES: dict[str, tuple[str, Form]] = {
    "kl": ("KL", nats),
    "top1": ("Same first token", finely),
    "perplexity_increase": ("Perplexity increase", change),
    "retention": ("Retention", finely),
    "kl_growth": ("KL growth", ratio),
    "retrieval_retention": ("Retrieval retention", finely),
    "error_rate": ("Failed requests", finely),
    "ttft_p90": ("First token, P90", seconds),
    "itl_p90": ("Between tokens, P90", seconds),
    "throughput": ("Throughput", rate),
}
UNITS = {"kl": "nats a token"}  # where the form does not say it
SIGNS = {True: "good", False: "bad", None: "unsure"}
BOUNDS = {"good": "within its bound", "bad": "misses its bound", "unsure": "undecided"}
HOLDS = {True: "holds", False: "does not hold", None: "undecided"}
MOST_REASONS = 6
NONE = "no verdict"
_BARE = re.compile(r"^\S+ is (not )?(at most|at least) \S+?([,;] |$)")


@dataclass(frozen=True)
class RuleView:
    """A rule as it is read. allowed: from and to, in percent of its track; marks stand on that"""

    title: str
    stage: str
    figure: str
    small: str
    asked: str
    passed: bool | None
    words: str
    marks: list[Mark]
    allowed: tuple[float, float]

    @property
    def sign(self) -> str:
        return SIGNS[self.passed]

    @property
    def holds(self) -> str:
        return HOLDS[self.passed]


@dataclass(frozen=True)
class VerdictView:
    """word: pass, fail, could not measure, or no verdict; why: the sentence below it"""

    word: str
    why: str
    policy: str
    rules: list[RuleView]
    remarks: list[str]

    @property
    def sign(self) -> str:
        return {"pass": "good", "fail": "bad"}.get(self.word, "unsure")

    @property
    def reasons(self) -> list[RuleView]:
        """The rules that make the verdict what it is, the failed ones first."""
        bad = [rule for rule in self.rules if rule.passed is False]
        return bad + [rule for rule in self.rules if rule.passed is None]

    @property
    def shown(self) -> list[RuleView]:
        return self.reasons[:MOST_REASONS]


def verdict(data: Data) -> VerdictView:
    """The verdict of `data`."""
    found = part(data, "verdict")
    policy = line(words(found, "policy"), 60)
    if not found or "error" in found:
        cause = line(words(found, "error"), 300)
        why = f"The verdict could not be made: {cause}" if cause else "No policy was asked for."
        return VerdictView(NONE, why, policy, [], [])
    rules = [_judged(rule) for rule in rows(found, "rules")]
    word = _word(found, [rule.passed for rule in rules])
    return VerdictView(word, _why(word, rules, policy), policy, rules, _remarks(found))


def _word(found: Data, passed: Sequence[bool | None]) -> str:
    said = found.get("verdict")
    if False in passed or said == "fail":
        return "fail"
    sound = said == "pass" and found.get("exit_code", 0) == 0
    return "pass" if sound and passed and None not in passed else "could not measure"


def _why(word: str, rules: Sequence[RuleView], policy: str) -> str:
    of = f" of the policy {policy}" if policy else ""
    count = len(rules)
    bad = sum(rule.passed is False for rule in rules)
    unsure = sum(rule.passed is None for rule in rules)
    if not rules:
        return f"The policy {policy or 'asked for'} asks nothing of the stages that were run."
    if word == "pass":
        return f"All {count} rules{of} hold." if count > 1 else f"The one rule{of} holds."
    if word == "fail":
        also = f"; {unsure} could not be decided" if unsure else ""
        verb = "does" if bad == 1 else "do"
        return f"{bad} of {count} rules{of} {verb} not hold{also}."
    return f"No rule{of} failed, but {unsure} of {count} could not be decided."


def _remarks(found: Data) -> list[str]:
    ruled = {
        "upper": "The worse end of each interval has to satisfy the bound.",
        "middle": "What was measured has to satisfy the bound; a loss in tasks has to be proven.",
    }
    remarks = [ruled[found["use"]]] if found.get("use") in ruled else []
    left = [line(stage, 40) for stage in texts(found, "left_out")]
    if left:
        remarks.append(f"Not asked for, so not judged: {', '.join(left)}.")
    return remarks


def _judged(rule: Data) -> RuleView:
    what, kind = words(rule, "what"), words(rule, "kind")
    title, form = MEASURES.get(what, (line(what, 60) or "a figure", short))
    value, bound, most = number(rule.get("value")), number(rule.get("bound")), _most(rule)
    unit = UNITS.get(what) or ("" if what in MEASURES else line(words(rule, "unit"), 40))
    passed = rule.get("passed")
    marks, allowed = _marks(rule, value, bound, form)
    asked = f"{'at most' if most else 'at least'} {show(bound, _bound(form), '?')}"
    return RuleView(
        title + f" ({line(kind, 40)})" * (kind not in ("", "all")),
        line(words(rule, "stage"), 40),
        show(value, form, UNMEASURED),
        between(rule.get("interval"), form),
        f"{asked} {unit}".strip(),
        passed if isinstance(passed, bool) else None,
        _rest(line(words(rule, "words"), 400)),
        marks,
        allowed,
    )


def _rest(said: str) -> str:
    """What the words of a rule say besides that its figure misses its bound."""
    return _BARE.sub("", said).strip()


def _most(rule: Data) -> bool:
    return rule.get("direction") != "at least"


def _bound(form: Form) -> Form:
    """A bound is a round number: without the digits that a measured figure has."""
    if form is finely or form is change:
        return lambda v: f"{100 * v:,.6g}%"
    return tick if form in (nats, short) else form


def _marks(
    rule: Data, value: float | None, bound: float | None, form: Form
) -> tuple[list[Mark], tuple[float, float]]:
    """The figure on a track of its own, where the bound is a tick and what is allowed is shaded."""
    interval = ends(rule.get("interval"))
    values = [v for v in (value, bound, *(interval or ())) if v is not None]
    if bound is None:
        return [], (0.0, 0.0)
    axis = _track(values, most=_most(rule))
    colour = SIGNS[rule["passed"] if isinstance(rule.get("passed"), bool) else None]
    at = axis.at(bound)
    marks = [Mark("tick", at, at, "bound")]
    if interval:
        marks.append(Mark("whisker", axis.at(interval[0]), axis.at(interval[1]), colour))
    if value is not None:
        marks.append(Mark("dot", axis.at(value), axis.at(value), colour, form(value)))
    return marks, (0.0, at) if _most(rule) else (at, 100.0)


def _track(values: list[float], *, most: bool) -> Axis:
    """A third more than the values take, from 0 where a small figure is a good one."""
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) / 3
    axis = linear([0.0 if most else low - room, high + room], zero=most)
    low, high = (min(0.0, low) if most else low - room), high + room
    return Axis(low, high, ()) if high > low else axis
