"""The verdict on a quantized checkpoint: a policy's thresholds held against measurements.

A rule holds, does not hold, or could not be decided; the last is never taken for the first.
Measuring is elsewhere. Imports no torch.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from salient.core.errors import RequestError
from salient.core.intervals import Interval

from .policy import STAGES, THRESHOLDS, Direction, Policy, Threshold, Use

ALL = "all"  # the kind of a measurement over everything

Word = Literal["pass", "fail", "could not measure"]
EXIT_CODES: dict[Word, int] = {"pass": 0, "fail": 1, "could not measure": 2}


@dataclass(frozen=True)
class Measurement:
    """A figure that a stage measured; a value of None says in `why` what prevented it.

    kind: of the examples, such as "arithmetic"; sample: how many examples, windows or requests
    p_value: that a loss as large is luck (statistics.mcnemar), where examples are paired
    """

    stage: str
    what: str
    value: float | None
    kind: str = ALL
    interval: Interval | None = None
    unit: str = ""
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
    reason: str

    @property
    def title(self) -> str:
        return f"{self.stage}: {self.what}" + f" ({self.kind})" * (self.kind != ALL)

    def to_dict(self) -> dict[str, object]:
        data = asdict(self)
        data["words"] = data.pop("reason")
        return data


@dataclass(frozen=True)
class Verdict:
    """All rules of a policy; left_out: its stages that were not asked for."""

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
            "rules": [rule.to_dict() for rule in self.rules],
        }


def judge(
    policy: Policy, measurements: Iterable[Measurement], stages: Sequence[str] = STAGES
) -> Verdict:
    """Decide each threshold of `policy` in `stages`. Measurements that it does not name are left.

    Raises RequestError for a stage that there is not, or two measurements of one thing.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise RequestError(f"No stage {unknown[0]!r}. The stages are {', '.join(STAGES)}.")
    measured = _by_name(measurements)
    asked = [
        (t, ALL, policy.bounds[t.stage, t.key])
        for t in THRESHOLDS
        if (t.stage, t.key) in policy.bounds
    ]
    asked += [(t, k, v) for t in THRESHOLDS if _of_kinds(t) for k, v in policy.kinds.items()]
    rules = [
        _rule(policy, threshold, measured.get((threshold.stage, threshold.what, kind)), kind, bound)
        for threshold, kind, bound in asked
        if threshold.stage in stages
    ]
    out = dict.fromkeys(t.stage for t, _, _ in asked if t.stage not in stages)
    return Verdict(policy.name, policy.use, tuple(rules), tuple(out))


def _by_name(measurements: Iterable[Measurement]) -> dict[tuple[str, str, str], Measurement]:
    found = {}
    for m in measurements:
        if (m.stage, m.what, m.kind) in found:
            raise RequestError(
                f"{m.stage}: {m.what} ({m.kind}) was measured twice. Give each measurement once."
            )
        found[m.stage, m.what, m.kind] = m
    return found


def _of_kinds(threshold: Threshold) -> bool:
    return threshold.key == "retention_min"


def _rule(
    policy: Policy, threshold: Threshold, found: Measurement | None, kind: str, bound: float
) -> RuleResult:
    passed, words = _decide(policy, threshold, found, kind, bound)
    return RuleResult(
        threshold.stage,
        threshold.what,
        kind,
        found.value if found else None,
        found.interval if found else None,
        bound,
        threshold.direction,
        threshold.unit,
        passed,
        words,
    )


def _decide(
    policy: Policy, threshold: Threshold, found: Measurement | None, kind: str, bound: float
) -> tuple[bool | None, str]:
    if found is None:
        return None, "not measured"
    if found.value is None:
        return None, f"could not be measured: {found.why or 'no reason is given'}"
    if not math.isfinite(found.value):
        return False, f"{found.value} is no figure of a working model: look at its outputs"
    if _of_kinds(threshold):
        fewest = policy.examples.get(kind, policy.minimum_examples)
        if found.sample < fewest:
            return _few(threshold, found, bound, fewest)
    if policy.use == "upper" and found.interval:
        return _decide_end(threshold, found.value, found.interval, bound)
    if _holds(threshold, found.value, bound):
        bare = "; it has no interval" * (policy.use == "upper")
        return True, f"{found.value:.4g} is {threshold.direction} {bound:g}{bare}"
    return _decide_loss(policy, threshold, found, bound)


def _few(
    threshold: Threshold, found: Measurement, bound: float, fewest: int
) -> tuple[bool | None, str]:
    """With fewer examples than asked for, the interval has to decide: it is the wider for it."""
    words = f"only {found.sample} examples, {fewest} are asked for"
    if found.interval is None or not math.isfinite(found.interval.width):
        return None, f"{words}: take more"
    words += f", so the interval decides, {found.interval.width:.3g} wide"
    worse, better = _ends(threshold, found.interval)
    if _holds(threshold, worse, bound):
        return True, f"{words}: even its worse end, {worse:.4g}, is {threshold.direction} {bound:g}"
    if not _holds(threshold, better, bound):
        return False, f"{words}: even its better end, {better:.4g}, misses {bound:g}"
    return None, f"{words}: {worse:.4g} to {better:.4g} can be both; take more"


def _decide_end(
    threshold: Threshold, value: float, interval: Interval, bound: float
) -> tuple[bool | None, str]:
    """The pessimistic end has to satisfy the bound."""
    end = _ends(threshold, interval)[0]
    if not math.isfinite(end):
        return None, "too few values to bound it: take more"
    words = f"the interval's worse end, {end:.4g},"
    if _holds(threshold, end, bound):
        return True, f"{words} is {threshold.direction} {bound:g}"
    if _holds(threshold, value, bound):
        return False, (
            f"{value:.4g} was measured, but {words} is not {threshold.direction} {bound:g}: a "
            "larger sample narrows it"
        )
    return False, f"{value:.4g} is not {threshold.direction} {bound:g}"


def _decide_loss(
    policy: Policy, threshold: Threshold, found: Measurement, bound: float
) -> tuple[bool | None, str]:
    """What was measured misses the bound; a loss of paired examples has to be proven too."""
    words = f"{found.value:.4g} is not {threshold.direction} {bound:g}"
    if found.p_value is None or policy.significance is None or not _of_kinds(threshold):
        return False, words
    proof = f"p = {found.p_value:.3g}, proven below {policy.significance:g}"
    if found.p_value < policy.significance:
        return False, f"{words}, and the loss is no luck ({proof})"
    return None, f"{words}, but luck can do that ({proof}): take more examples"


def _holds(threshold: Threshold, value: float, bound: float) -> bool:
    return value <= bound if threshold.direction == "at most" else value >= bound


def _ends(threshold: Threshold, interval: Interval) -> tuple[float, float]:
    """The worse end of the interval and the better one."""
    low, high = interval.low, interval.high
    return (high, low) if threshold.direction == "at most" else (low, high)
