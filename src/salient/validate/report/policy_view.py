"""The verdict as people read it: one word, the sentence why, and each rule against its bound."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from salient.validate.policy.verdict import ALL, RuleResult, Verdict

from . import text_format as fmt
from .axis import Axis, linear
from .charts import Level, Mark
from .parts import Tile

# measurement -> its name, how its figures are written, how a bound, a rounder number, is
MEASURES: dict[str, tuple[str, fmt.Form, fmt.Form]] = {
    "kl": ("KL", fmt.nats, lambda value: f"{fmt.tick(value)} nats a token"),
    "top1": ("Same first token", fmt.precise_share, fmt.share_tick),
    "perplexity_increase": ("Perplexity increase", fmt.change, fmt.share_tick),
    "retention": ("Retention", fmt.precise_share, fmt.share_tick),
    "kl_growth": ("KL growth", fmt.ratio, fmt.ratio),
    "retrieval_retention": ("Retrieval retention", fmt.precise_share, fmt.share_tick),
    "error_rate": ("Failed requests", fmt.precise_share, fmt.share_tick),
    "ttft_p90": ("First token, P90", fmt.seconds, fmt.seconds),
    "itl_p90": ("Between tokens, P90", fmt.seconds, fmt.seconds),
    "throughput": ("Throughput", fmt.rate, fmt.rate),
    "tokenizer": ("Tokenizer", fmt.integer, fmt.integer),
    "chat_template": ("Chat template", fmt.integer, fmt.integer),
    "stop_tokens": ("Ends of answers", fmt.integer, fmt.integer),
    "rope": ("Rotary positions", fmt.integer, fmt.integer),
    "damaged": ("Damaged", fmt.integer, fmt.integer),
    "generation_config": ("Generation config", fmt.integer, fmt.integer),
}
USES = {
    "upper": "The worse end of each interval has to satisfy the bound.",
    "middle": "The worse end of each interval has to satisfy the bound; of a load test, the value.",
}
SIGNS = {True: "good", False: "bad", None: "unsure"}
HOLDS = {True: "holds", False: "does not hold", None: "undecided"}
SIGN_LABELS = {"good": "within its bound", "bad": "misses its bound", "unsure": "undecided"}
MOST_REASONS = 6
_COMPARISON = re.compile(r"^\S+ is (not )?(at most|at least) \S+?([,;] |$)")


@dataclass(frozen=True)
class RuleView:
    """A rule on a track: `marks` on `axis`; allowed: its ends in percent."""

    title: str
    stage: str
    figure: str
    small: str
    bound: str
    passed: bool | None
    remark: str
    marks: list[Mark]
    axis: Axis
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
    policy: str = ""
    rules: Sequence[RuleView] = ()
    remarks: Sequence[str] = ()

    @property
    def sign(self) -> str:
        return {"pass": "good", "fail": "bad"}.get(self.word, "unsure")

    @property
    def reasons(self) -> list[RuleView]:
        """The rules that make the verdict what it is, the failed ones first."""
        return [r for passed in (False, None) for r in self.rules if r.passed is passed]

    @property
    def shown(self) -> list[RuleView]:
        return self.reasons[:MOST_REASONS]


def verdict_view(verdict: Verdict | None) -> VerdictView:
    """The verdict, or that there is none."""
    if verdict is None:
        return VerdictView("no verdict", "No policy was requested.")
    policy = fmt.line(verdict.policy, 60)
    remarks = [USES[verdict.use]]
    if verdict.left_out:
        remarks.append(f"Not requested, so not judged: {', '.join(verdict.left_out)}.")
    return VerdictView(
        verdict.word, _why(verdict, policy), policy, list(map(_rule, verdict.rules)), remarks
    )


def _why(verdict: Verdict, policy: str) -> str:
    passed = [rule.passed for rule in verdict.rules]
    count, bad, unsure = len(passed), passed.count(False), passed.count(None)
    if not count:
        return f"The policy {policy} has no rule on the stages that were run."
    of = f" of the policy {policy}"
    if verdict.word == "pass":
        return f"All {count} rules{of} hold." if count > 1 else f"The one rule{of} holds."
    if verdict.word == "fail":
        also = f"; {unsure} could not be decided" if unsure else ""
        return f"{bad} of {count} rules{of} {'does' if bad == 1 else 'do'} not hold{also}."
    return f"No rule{of} failed, but {unsure} of {count} could not be decided."


def _rule(rule: RuleResult) -> RuleView:
    title, form, bound_form = MEASURES[rule.what]
    low, high = fmt.bounds(rule.interval) or (None, None)
    value, most = fmt.finite(rule.value), rule.direction == "at most"
    axis = _track([v for v in (value, rule.bound, low, high) if v is not None], most=most)
    colour, at = SIGNS[rule.passed], axis.at(rule.bound)
    marks = [Mark("tick", rule.bound, rule.bound, "bound")]
    if low is not None and high is not None:
        marks.append(Mark("whisker", low, high, colour))
    if value is not None:
        marks.append(Mark("dot", value, value, colour, form(value)))
    return RuleView(
        title + f" ({fmt.line(rule.kind, 40)})" * (rule.kind != ALL),
        rule.stage,
        fmt.show(value, form, fmt.UNMEASURED),
        fmt.between(rule.interval, form),
        f"{rule.direction} {bound_form(rule.bound)}",
        rule.passed,
        _COMPARISON.sub("", fmt.line(rule.reason, 400)).strip(),
        marks,
        axis,
        (0.0, at) if most else (at, 100.0),
    )


def _track(values: list[float], *, most: bool) -> Axis:
    """A third more than the values take, from 0 where a small figure is a good one."""
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) / 3
    low, high = (min(0.0, low) if most else low - room), high + room
    return Axis(low, high, ()) if high > low else linear([low, high])


def rule_on(verdict: Verdict | None, stage: str, what: str) -> RuleResult | None:
    """The rule on a figure over everything."""
    rules = verdict.rules if verdict else ()
    matches = (r for r in rules if (r.stage, r.what, r.kind) == (stage, what, ALL))
    return next(matches, None)


def levels(
    verdict: Verdict | None, stage: str, what: str, form: fmt.Form, factor: float = 1.0
) -> list[Level]:
    """The bound of a rule, `factor` times, as a line of a chart; none without a rule."""
    rule = rule_on(verdict, stage, what)
    if rule is None:
        return []
    return [Level(factor * rule.bound, f"{rule.direction} {form(rule.bound)}")]


def tile(
    verdict: Verdict | None,
    measure: tuple[str, str],
    label: str,
    figure: tuple[float | None, fmt.Form],
    remark: str = "",
) -> Tile:
    """A tile of a figure: the judged one where the policy has a rule on it, else `figure`.

    measure: stage and measurement   figure: the section's own, and how it is written
    """
    rule = rule_on(verdict, *measure)
    value, form = figure
    if rule is None:
        return Tile(label, fmt.show(value, form, fmt.UNMEASURED), remark)
    judged = value if fmt.finite(rule.value) is None else rule.value
    return Tile(label, fmt.show(judged, form, fmt.UNMEASURED), remark, SIGNS[rule.passed])
