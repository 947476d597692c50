"""The verdict on a quantized checkpoint: a policy's thresholds against measurements.

A rule holds, does not hold, or is undecided; undecided never counts as holding. Imports no torch.
"""

import math
from collections.abc import Iterable, Sequence
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
    """

    stage: str
    what: str
    value: float | None
    kind: str = ALL
    interval: Interval | None = None
    sample: int = 0
    why: str = ""
    p_value: float | None = None


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
    measured: dict[tuple[str, str, str], Measurement] = {}
    for m in measurements:
        if (m.stage, m.what, m.kind) in measured:
            raise RequestError(
                f"{m.stage}: {m.what} ({m.kind}) was measured twice. Give each measurement once."
            )
        measured[m.stage, m.what, m.kind] = m
    bounds = [
        (t, ALL, policy.bounds[t.stage, t.key])
        for t in THRESHOLDS
        if (t.stage, t.key) in policy.bounds
    ]
    bounds += [(t, k, v) for t in THRESHOLDS if t.by_kind for k, v in policy.kinds.items()]
    rules = [
        _Rule(policy, t, kind, bound, measured.get((t.stage, t.what, kind))).result()
        for t, kind, bound in bounds
        if t.stage in stages
    ]
    left_out = dict.fromkeys(t.stage for t, _, _ in bounds if t.stage not in stages)
    return Verdict(policy.name, policy.use, tuple(rules), tuple(left_out))


@dataclass(frozen=True)
class _Rule:
    """A threshold of a policy, to be decided by a measurement."""

    policy: Policy
    threshold: Threshold
    kind: str
    bound: float
    measurement: Measurement | None

    @property
    def limit(self) -> str:
        return f"{self.threshold.direction} {self.bound:g}"

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.threshold.direction == "at most" else value >= self.bound

    def ends(self, interval: Interval) -> tuple[float, float]:
        """The worse end of the interval and the better one."""
        low, high = interval.low, interval.high
        return (high, low) if self.threshold.direction == "at most" else (low, high)

    def result(self) -> RuleResult:
        threshold, measurement = self.threshold, self.measurement
        return RuleResult(
            threshold.stage,
            threshold.what,
            self.kind,
            measurement.value if measurement else None,
            measurement.interval if measurement else None,
            self.bound,
            threshold.direction,
            threshold.unit,
            *self.decide(),
        )

    def decide(self) -> tuple[bool | None, str]:
        measurement = self.measurement
        if measurement is None:
            return None, "not measured"
        value, interval = measurement.value, measurement.interval
        if value is None:
            return None, f"could not be measured: {measurement.why or 'no reason is given'}"
        if not math.isfinite(value):
            return False, f"{value} is no figure of a working model: look at its outputs"
        if self.threshold.by_kind:
            fewest = self.policy.examples.get(self.kind, self.policy.minimum_examples)
            if measurement.sample < fewest:
                return self.decide_few(interval, measurement.sample, fewest)
        if self.policy.use == "upper" and interval:
            return self.decide_end(value, interval)
        if self.holds(value):
            bare = "; it has no interval" * (self.policy.use == "upper")
            return True, f"{value:.4g} is {self.limit}{bare}"
        return self.decide_loss(value, measurement.p_value)

    def decide_few(
        self, interval: Interval | None, sample: int, fewest: int
    ) -> tuple[bool | None, str]:
        """With fewer examples than required, the interval decides: it is the wider for it."""
        start = f"only {sample} examples, {fewest} are required"
        if interval is None or not math.isfinite(interval.width):
            return None, f"{start}: take more"
        start += f", so the interval decides, {interval.width:.3g} wide"
        worse, better = self.ends(interval)
        if self.holds(worse):
            return True, f"{start}: even its worse end, {worse:.4g}, is {self.limit}"
        if not self.holds(better):
            return False, f"{start}: even its better end, {better:.4g}, misses {self.bound:g}"
        return None, f"{start}: {worse:.4g} to {better:.4g} can be both; take more"

    def decide_end(self, value: float, interval: Interval) -> tuple[bool | None, str]:
        """The pessimistic end has to satisfy the bound."""
        end = self.ends(interval)[0]
        if not math.isfinite(end):
            return None, "too few values to bound it: take more"
        worse = f"the interval's worse end, {end:.4g},"
        if self.holds(end):
            return True, f"{worse} is {self.limit}"
        if self.holds(value):
            return False, (
                f"{value:.4g} was measured, but {worse} is not {self.limit}: a larger sample "
                "narrows it"
            )
        return False, f"{value:.4g} is not {self.limit}"

    def decide_loss(self, value: float, p_value: float | None) -> tuple[bool | None, str]:
        """The value misses the bound; a loss of paired examples has to be significant, too."""
        missed, significance = f"{value:.4g} is not {self.limit}", self.policy.significance
        if p_value is None or significance is None or not self.threshold.by_kind:
            return False, missed
        proof = f"p = {p_value:.3g}, proven below {significance:g}"
        if p_value < significance:
            return False, f"{missed}, and the loss is no luck ({proof})"
        return None, f"{missed}, but luck can do that ({proof}): take more examples"
