"""The verdict on a quantized checkpoint: a policy's thresholds against measurements.

A rule holds, does not hold, or is undecided; undecided never counts as holding. A sample decides by
its 95 % interval: a rule holds where the worse end satisfies the bound, fails where the better end
misses it, and is undecided in between. So a smaller sample, whose interval is wider, decides less
and passes no more. Imports no torch.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from salient.core.errors import RequestError
from salient.core.intervals import Interval
from salient.core.records import to_json

from .policy import STAGES, THRESHOLDS, Direction, Policy, Threshold, Use

ALL = "all"  # the kind of a measurement over everything

Word = Literal["pass", "fail", "could not measure"]
EXIT_CODES: dict[Word, int] = {"pass": 0, "fail": 1, "could not measure": 2}


@dataclass(frozen=True)
class Measurement:
    """A figure of a stage; a value of None has its reason in `why`.

    kind: of the examples, such as "arithmetic"; sample: how many examples, windows or requests
    p_value: of the loss (core.intervals.mcnemar), where examples are paired
    text, tokens: of a text's windows; a rule holds where it holds for every text
    """

    stage: str
    what: str
    value: float | None
    kind: str = ALL
    interval: Interval | None = None
    sample: int = 0
    why: str = ""
    p_value: float | None = None
    text: str = ""
    tokens: int | None = None


@dataclass(frozen=True)
class RuleResult:
    """One threshold, decided for a `reason`; passed is None where it could not be."""

    stage: str
    what: str
    kind: str
    value: float | None
    interval: Interval | None
    bound: float
    direction: Direction
    unit: str
    passed: bool | None
    reason: str = field(metadata={"key": "words"})

    @property
    def title(self) -> str:
        return f"{self.stage}: {self.what}" + f" ({self.kind})" * (self.kind != ALL)


@dataclass(frozen=True)
class Verdict:
    """All rules of a policy; left_out: its stages that were not selected."""

    policy: str
    use: Use
    rules: tuple[RuleResult, ...]
    left_out: tuple[str, ...] = ()

    @property
    def word(self) -> Word:
        """fail: a rule does not hold; could not measure: one is undecided, or there is none."""
        passed = [rule.passed for rule in self.rules]
        if False in passed:
            return "fail"
        return "pass" if passed and None not in passed else "could not measure"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.word]

    def to_dict(self) -> dict[str, object]:
        return {
            "verdict": self.word,
            "exit_code": self.exit_code,
            "policy": self.policy,
            "use": self.use,
            "left_out": list(self.left_out),
            "rules": to_json(self.rules),
        }


def judge(
    policy: Policy, measurements: Iterable[Measurement], stages: Sequence[str] = STAGES
) -> Verdict:
    """Decide each threshold of `policy` in `stages`. Other measurements are ignored.

    Raises RequestError for an unknown stage, or two measurements of one thing.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise RequestError(f"No stage {unknown[0]!r}. The stages are {', '.join(STAGES)}.")
    measured: dict[tuple[str, str, str], dict[str, Measurement]] = {}
    for m in measurements:
        texts = measured.setdefault((m.stage, m.what, m.kind), {})
        if m.text in texts:
            raise RequestError(
                f"{m.stage}: {m.what} ({m.kind}) was measured twice. Give each measurement once."
            )
        texts[m.text] = m
    bounds = [
        (t, ALL, policy.bounds[t.stage, t.key])
        for t in THRESHOLDS
        if (t.stage, t.key) in policy.bounds
    ]
    bounds += [(t, k, v) for t in THRESHOLDS if t.by_kind for k, v in policy.kinds.items()]
    rules = [
        _Rule(policy, t, kind, bound).result(measured.get((t.stage, t.what, kind), {}).values())
        for t, kind, bound in bounds
        if t.stage in stages
    ]
    left_out = dict.fromkeys(t.stage for t, _, _ in bounds if t.stage not in stages)
    return Verdict(policy.name, policy.use, tuple(rules), tuple(left_out))


# stage -> what narrows its intervals
MORE = {
    "likelihood": "more windows (--samples)",
    "tasks": "more examples",
    "context": "more or longer texts",
    "load": "more requests",
}
_WORST_FIRST = (False, None, True)


@dataclass(frozen=True)
class _Rule:
    """A threshold of a policy, to be decided by measurements."""

    policy: Policy
    threshold: Threshold
    kind: str
    bound: float

    @property
    def limit(self) -> str:
        return f"{self.threshold.direction} {self.bound:g}"

    @property
    def take_more(self) -> str:
        return f"take {MORE[self.threshold.stage]}"

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.threshold.direction == "at most" else value >= self.bound

    def ends(self, interval: Interval) -> tuple[float, float]:
        """The worse end of the interval and the better one."""
        low, high = interval.low, interval.high
        return (high, low) if self.threshold.direction == "at most" else (low, high)

    def loss(self, measurement: Measurement) -> float:
        """How bad the value is; larger is worse, and no number is the worst."""
        value = measurement.value
        if value is None or math.isnan(value):
            return math.inf
        return value if self.threshold.direction == "at most" else -value

    def result(self, measurements: Collection[Measurement]) -> RuleResult:
        """The rule, decided by the measurement that fares worst."""
        threshold, measurement = self.threshold, None
        passed, reason = None, "not measured"
        decided = [(self.decide(each), each) for each in measurements]
        if decided:
            (passed, reason), measurement = min(
                decided, key=lambda row: (_WORST_FIRST.index(row[0][0]), -self.loss(row[1]))
            )
            reason += f" ({measurement.text})" * (len(decided) > 1)
        return RuleResult(
            threshold.stage,
            threshold.what,
            self.kind,
            measurement.value if measurement else None,
            measurement.interval if measurement else None,
            self.bound,
            threshold.direction,
            threshold.unit,
            passed,
            reason,
        )

    def decide(self, measurement: Measurement) -> tuple[bool | None, str]:
        value, interval = measurement.value, measurement.interval
        if value is None:
            return None, f"could not be measured: {measurement.why or 'no reason is given'}"
        if not math.isfinite(value):
            return False, f"{value} is no figure of a working model: look at its outputs"
        if not self.threshold.sampled and (self.policy.use == "middle" or not self.holds(value)):
            return self.holds(
                value
            ), f"{value:.4g} is {'not ' * (not self.holds(value))}{self.limit}"
        few = self.shortage(measurement)
        if interval is None or not math.isfinite(interval.width):
            return None, f"{few or 'it has no interval, which the rule needs'}: {self.take_more}"
        worse, better = self.ends(interval)
        start = f"{few}, and " * bool(few)
        if not self.holds(better):
            return self.decide_loss(
                f"{start}even the interval's better end, {better:.4g},", measurement
            )
        if few:
            return None, f"{few}: {self.take_more}"
        if self.holds(worse):
            return True, f"the interval's worse end, {worse:.4g}, is {self.limit}"
        return None, (
            f"{value:.4g} was measured, but its interval, {interval.low:.4g} to "
            f"{interval.high:.4g}, leaves open whether it is {self.limit}: {self.take_more}"
        )

    def shortage(self, measurement: Measurement) -> str:
        """That the sample is smaller than the policy's minimum; '' where it is not."""
        policy, sizes = self.policy, list[tuple[int | None, int, str]]()
        if self.threshold.by_kind:
            fewest = policy.examples.get(self.kind, policy.minimum_examples)
            sizes = [(measurement.sample, fewest, "examples")]
        elif self.threshold.stage == "likelihood":
            sizes = [
                (measurement.sample, policy.minimum_windows, "windows"),
                (measurement.tokens, policy.minimum_tokens, "tokens"),
            ]
        few = [
            f"only {size} {unit}, {least} are required"
            for size, least, unit in sizes
            if size is not None and size < least
        ]
        return " and ".join(few)

    def decide_loss(self, start: str, measurement: Measurement) -> tuple[bool | None, str]:
        """The interval misses the bound; a loss of paired examples has to be significant, too."""
        missed, significance = f"{start} is not {self.limit}", self.policy.significance
        p_value = measurement.p_value
        if p_value is None or significance is None or not self.threshold.by_kind:
            return False, missed
        proof = f"p = {p_value:.3g}, proven below {significance:g}"
        if p_value < significance:
            return False, f"{missed}, and the loss is no luck ({proof})"
        return None, f"{missed}, but luck can do that ({proof}): {self.take_more}"
