"""A gate passes no more on less: no subset of the windows, examples, facts or requests of a
validation that fails passes. SALIENT_TRIALS=1000 runs as many."""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from salient.core.metrics import LogitsComparison
from salient.validate.context.haystack import RetrievalProbe
from salient.validate.context.positions import growth
from salient.validate.context.result import ContextResult, RetrievalResult
from salient.validate.likelihood.protocols import EvaluationProtocol
from salient.validate.likelihood.result import LikelihoodResult, TextComparison
from salient.validate.policy.policy import SHIPPED, Policy, read_policy
from salient.validate.policy.verdict import Measurement, judge
from salient.validate.tasks.comparison import TaskOutcome, compare
from salient.validate.tasks.result import TaskResult
from salient.validate.tasks.scoring import Example

OWN = {
    use: Policy(
        "own",
        use,  # pyright: ignore[reportArgumentType]
        {
            ("likelihood", "kl_max"): 0.1,
            ("tasks", "retention_min"): 0.9,
            ("context", "kl_growth_max"): 1.2,
            ("context", "retrieval_retention_min"): 0.9,
        },
        kinds={"choice": 0.9},
    )
    for use in ("upper", "middle")
}
POLICIES = [*map(read_policy, SHIPPED), *OWN.values()]
TRIALS, SUBSETS = int(os.environ.get("SALIENT_TRIALS", "10")), 6
KEYS = ("kl_max", "top1_min", "perplexity_increase_max")
WINDOWS = 40
EXAMPLES = [
    Example("p", "written", ("w",), "exact", (), None, f"own:{number}")
    if number % 2
    else Example("p", "choice", ("a",), "choice", ("a", "b"), 0, f"own:{number}")
    for number in range(900)
]


def subset(rng: random.Random, count: int) -> list[int]:
    return sorted(rng.sample(range(count), rng.randint(1, count - 1)))


def likelihood(rng: random.Random, policy: Policy, loss: float) -> Callable:
    """Windows of 512 tokens whose KL, top-1 and perplexity are `loss` times the bounds."""
    random_numbers = np.random.default_rng(rng.randrange(2**32))
    bounds = {what: policy.bounds.get(("likelihood", what), 0.2) for what in KEYS}
    factors = loss * random_numbers.lognormal(-0.03, 0.25, (3, WINDOWS))
    kl, lost, increase = (
        factors[row] * bound
        for row, bound in enumerate((bounds[KEYS[0]], 1 - bounds[KEYS[1]], bounds[KEYS[2]]))
    )
    windows = [
        LogitsComparison(512, k * 512, round((1 - t) * 512), 512, 1500.0, 1500 + np.log1p(p) * 512)
        for k, t, p in zip(kl, lost, increase, strict=True)
    ]

    def measure(some: Sequence[int]) -> list[Measurement]:
        text = TextComparison.of([windows[place] for place in some])
        protocol = EvaluationProtocol(512, 512)
        return LikelihoodResult(protocol, 1.0, {"own.txt": text}, text, ()).measurements()

    return measure


def tasks(rng: random.Random, policy: Policy, loss: float) -> Callable:
    """Written answers, and as many choices of two; the checkpoint loses answers."""
    bound = policy.bounds["tasks", "retention_min"]
    reference = [rng.random() < 0.8 for _ in EXAMPLES]
    quantized = [right and rng.random() > loss * (1 - bound) for right in reference]

    def measure(some: Sequence[int]) -> list[Measurement]:
        sides = ([TaskOutcome("", side[n]) for n in some] for side in (reference, quantized))
        comparison = compare([EXAMPLES[n] for n in some], *sides)
        return TaskResult.of(["own"], comparison, {}).measurements()

    return measure


def context(rng: random.Random, policy: Policy, loss: float) -> Callable:
    """Windows whose KL grows, of neighbouring tokens alike; and facts to find."""
    random_numbers = np.random.default_rng(rng.randrange(2**32))
    grows = 1 + loss * (policy.bounds["context", "kl_growth_max"] - 1)
    bound = policy.bounds["context", "retrieval_retention_min"]
    shape = (WINDOWS, 512)
    early = random_numbers.lognormal(-3, 1, shape) * random_numbers.lognormal(0, 0.3, (WINDOWS, 1))
    late = early * grows * random_numbers.lognormal(-0.02, 0.2, (WINDOWS, 1))
    probes = [RetrievalProbe(512, 0.5, "", []) for _ in range(WINDOWS * 5)]
    reference = [rng.random() < 0.9 for _ in probes]
    quantized = [right and rng.random() > loss * (1 - bound) for right in reference]
    text = TextComparison(LogitsComparison(), WINDOWS, {})

    def measure(some: Sequence[int]) -> list[Measurement]:
        facts = [place * 5 + k for place in some for k in range(5)]
        sides = ([side[n] for n in facts] for side in (reference, quantized))
        retrieval = RetrievalResult([probes[n] for n in facts], *sides, {})
        grown = growth([late[n] for n in some], [early[n] for n in some])
        lengths = {512: replace(text, windows=len(some))}
        return ContextResult("own", lengths, [], grown, [], retrieval).measurements()

    return measure


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.name}-{policy.use}")
@pytest.mark.parametrize(
    ("stage", "count", "draw"),
    [
        ("likelihood", WINDOWS, likelihood),
        ("tasks", len(EXAMPLES), tasks),
        ("context", WINDOWS, context),
    ],
)
def test_a_verdict_that_fails_with_all_passes_with_no_subset(policy, stage, count, draw):
    rng, outcomes = random.Random(5), set[str]()
    for _ in range(TRIALS):
        measure = draw(rng, policy, rng.uniform(0.1, 2.0))
        some = [range(count), *(subset(rng, count) for _ in range(SUBSETS))]
        whole, *parts = (judge(policy, measure(each), [stage]).word for each in some)
        outcomes.add(whole)
        assert whole != "fail" or "pass" not in parts
    assert {"pass", "fail"} <= outcomes
