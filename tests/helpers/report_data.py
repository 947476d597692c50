"""A validation result as `salient validate` returns it, of any number of blocks, seeded.

The figures are invented, and of the size that a small model's checkpoint has.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from salient.core.intervals import Interval
from salient.core.metrics import LogitsComparison
from salient.loadtest.result import FailureCount, LatencySummary, LoadResult
from salient.validate.attribution.result import (
    AttributionResult,
    DriftFigures,
    DriftResult,
    Suggestion,
)
from salient.validate.context.haystack import RetrievalProbe
from salient.validate.context.result import (
    ContextResult,
    KlGrowth,
    PositionBucket,
    RetrievalResult,
)
from salient.validate.likelihood.protocols import EvaluationProtocol, PublishedComparison
from salient.validate.likelihood.result import LikelihoodResult, TextComparison
from salient.validate.load.result import LoadTestStageResult
from salient.validate.model_pair import ModelSummary
from salient.validate.policy.policy import STAGES, Policy
from salient.validate.policy.verdict import judge
from salient.validate.result import ValidationResult
from salient.validate.run_environment import MemoryUse, RunEnvironment
from salient.validate.tasks.comparison import AnswerFlip, Tally, TaskComparison
from salient.validate.tasks.result import TaskResult, Throughput
from salient.validate.tasks.task_sets import Example

KINDS = ("arithmetic", "code", "extraction", "knowledge", "language", "reasoning")
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
POLICY = Policy(
    "balanced",
    "middle",
    {
        ("likelihood", "kl_max"): 0.15,
        ("likelihood", "top1_min"): 0.8,
        ("likelihood", "perplexity_increase_max"): 0.12,
        ("tasks", "retention_min"): 0.9,
        ("context", "kl_growth_max"): 1.5,
        ("load", "error_rate_max"): 0.05,
        ("load", "ttft_p90_max_s"): 1.5,
        ("load", "throughput_min_tok_s"): 100.0,
    },
)


def toy_result(blocks: int = 30, damaged: int | None = None, seed: int = 0) -> ValidationResult:
    """Everything measured and judged. damaged: the number of a block with wrong codes: a fail"""
    rng = random.Random(seed)
    result = ValidationResult(
        checkpoint="out/smollm2-135m-w4-g64",
        reference="smollm2-135m",
        salient="0.3.0",
        environment=RunEnvironment(
            processor="Intel(R) Xeon(R) Processor @ 2.70GHz",
            cores=2,
            memory_bytes=16 * 2**30,
            gpus=(),
            system="Linux x86_64, Python 3.11.9",
            device="cpu",
        ),
        model=ModelSummary("LlamaForCausalLM", blocks, 576, 49152, "w4-g64", "awq", 4.3125),
        date="2026-11-21",
        seconds=1284.6,
        memory=MemoryUse(
            reference_bytes=269_060_552,
            checkpoint_bytes=115_203_584,
            peak_bytes=1_212_153_856,
            parts={
                "4-bit weights": 53_084_160,
                "scales and zeros": 5_479_424,
                "embedding and head": 56_623_104,
                "norms": 16_896,
            },
        ),
        likelihood=toy_likelihood(rng, 1.0 if damaged is None else 6.5),
        tasks=toy_tasks(rng, 0.05 if damaged is None else 0.25),
        context=toy_context(rng),
        load=toy_load(rng),
        attribution=toy_attribution(rng, blocks, damaged),
    )
    return judged(result)


def judged(result: ValidationResult, policy: Policy = POLICY) -> ValidationResult:
    """`result` with the verdict of `policy` on its stages."""
    measurements = [m for stage in result.stages.values() for m in stage.measurements()]
    stages = [name for name in result.stages if name in STAGES]
    return replace(result, verdict=judge(policy, measurements, stages))


def toy_likelihood(rng: random.Random, factor: float) -> LikelihoodResult:
    values = {"wikitext-2": 0.105, "builtin (held out)": 0.112, "notes/support-tickets.txt": 0.083}
    texts = {
        name: toy_text(rng, kl * factor, 12.0 + 6 * rng.random()) for name, kl in values.items()
    }
    published = (
        ("Llama-2-7B", 5.47, 5.60, "AWQ paper, table 4"),
        ("Llama-3-8B", 6.14, 6.54, "Huang et al. 2024, table 1"),
    )
    return LikelihoodResult(
        protocol=EvaluationProtocol(1024, 1024),
        seconds=96.2,
        texts=texts,
        total=toy_text(rng, 0.1 * factor, 15.1, windows=30),
        published=tuple(PublishedComparison(*row) for row in published),
    )


def toy_text(
    rng: random.Random, kl: float, perplexity: float, windows: int = 10, length: int = 1024
) -> TextComparison:
    tokens, increase, top1 = windows * length, kl * 0.62, 1 - 0.52 * math.sqrt(kl)
    sums = LogitsComparison(
        tokens=tokens,
        kl_sum=kl * tokens,
        agreed=round(top1 * tokens),
        predicted=tokens,
        nll_reference=math.log(perplexity) * tokens,
        nll_quantized=math.log(perplexity * (1 + increase)) * tokens,
    )
    width = 0.06 + 0.05 * rng.random()
    spreads = {"kl": (kl, 1.0), "top1": (top1, 0.1), "perplexity_increase": (increase, 1.5)}
    intervals = {
        measure: Interval(v * (1 - width * spread), v, v * (1 + 1.1 * width * spread))
        for measure, (v, spread) in spreads.items()
    }
    return TextComparison(sums, windows, intervals)


def toy_tasks(rng: random.Random, loss: float) -> TaskResult:
    kinds, flips = [], []
    for number, kind in enumerate(KINDS):
        chance = 0.25 if kind in ("knowledge", "language", "reasoning") else 0.0
        right = round(100 * (0.3 + 0.5 * rng.random()))
        lost = round(right * loss * (0.5 + rng.random()))
        gained = rng.randrange(3)
        kinds.append(Tally(kind, 100, right, right - lost + gained, lost, gained, 9, 100 * chance))
        flips += [
            toy_flip(rng, kind, f"{kind}:{7 * i + number}", lost=i < lost)
            for i in range(lost + gained)
        ]
    total = Tally("all", *(sum(column) for column in zip(*map(_counts, kinds), strict=True)))
    return TaskResult(
        sets=KINDS,
        comparison=TaskComparison(total, tuple(kinds), tuple(flips)),
        throughput={
            "reference": Throughput(512.0, 7_000, 9_077, runs_as="bfloat16, transformers"),
            "quantized": Throughput(297.0, 7_000, 9_068, runs_as="4-bit, the cpu kernel"),
        },
        notes=("Answers are greedy, of at most 64 tokens.",),
    )


def _counts(tally: Tally) -> tuple[float, ...]:
    return tuple(value for value in vars(tally).values() if not isinstance(value, str))


def toy_flip(rng: random.Random, kind: str, name: str, *, lost: bool) -> AnswerFlip:
    a, b = rng.randrange(11, 99), rng.randrange(11, 99)
    right = f"{a} + {b} = {a + b}. The answer is {a + b}."
    wrong = f"{a} + {b} = {a + b - 10}. The answer is {a + b - 10}."
    prompt = f"Question: A box holds {a} red and {b} blue pencils. How many is that?\nAnswer:"
    example = Example(prompt, kind, (str(a + b),), "exact", (), None, name)
    if lost:
        return AnswerFlip(example, "lost", right, wrong)
    return AnswerFlip(example, "gained", wrong, right)


def toy_context(rng: random.Random) -> ContextResult:
    positions = []
    for first in range(0, 4096, 128):
        kl = 0.1 + 0.028 * math.log1p(first / 400) + rng.gauss(0, 0.004)
        interval = Interval(kl * 0.9, kl, kl * 1.12)
        positions.append(PositionBucket(first, first + 127, kl, 4, interval))
    return ContextResult(
        text="builtin (held out)",
        lengths={
            length: toy_text(rng, 0.108 + 0.004 * step, 16.4 - step, 16384 // length, length)
            for step, length in enumerate((512, 1024, 2048, 4096))
        },
        positions=positions,
        growth=KlGrowth(1.33, Interval(1.21, 1.33, 1.46), "4 windows"),
        retrieval=toy_retrieval(rng, (512, 1024, 2048, 4096)),
    )


def toy_retrieval(rng: random.Random, lengths: Sequence[int]) -> RetrievalResult:
    places = [(length, depth) for length in lengths for depth in (0.1, 0.3, 0.5, 0.7, 0.9)]
    probes = [RetrievalProbe(length, depth, "", []) for length, depth in places for _ in range(8)]
    reference = [rng.random() > probe.length / 30_000 for probe in probes]
    quantized = [
        right and rng.random() > probe.length / 20_000
        for right, probe in zip(reference, probes, strict=True)
    ]
    return RetrievalResult(probes, reference, quantized, {"reference": 9000, "checkpoint": 9000})


def toy_load(rng: random.Random) -> LoadTestStageResult:
    steps = tuple(toy_step(rng, concurrency) for concurrency in (1, 2, 4, 8, 16, 32))
    return LoadTestStageResult("embedded", "out/smollm2-135m-w4-g64", "salient", steps)


def toy_step(rng: random.Random, concurrency: int) -> LoadResult:
    rate = 54.0 * concurrency / (1 + concurrency / 9)
    ttft, itl = 60.0 + 22 * concurrency, 18.0 + 3.1 * concurrency
    failed = 3 if concurrency == 32 else 0
    return LoadResult(
        tool="salient",
        concurrency=concurrency,
        rate=None,
        ttft=toy_latency(rng, ttft),
        itl=toy_latency(rng, itl),
        tpot=toy_latency(rng, itl),
        e2e=toy_latency(rng, ttft + 64 * itl),
        counted="server",
        seconds=64 * (100 - failed) / rate,
        completed=100 - failed,
        input_tokens=25_600,
        output_tokens=64 * (100 - failed),
        failures=(FailureCount("timeout", failed, "no byte for 60 s"),) * bool(failed),
        peak=concurrency,
    )


def toy_latency(rng: random.Random, middle: float) -> LatencySummary:
    p90, p99 = middle * (1.3 + 0.1 * rng.random()), middle * (1.9 + 0.3 * rng.random())
    return LatencySummary(mean=middle * 1.04, p50=middle, p90=p90, p99=p99)


def toy_attribution(rng: random.Random, blocks: int, damaged: int | None) -> AttributionResult:
    values = [
        0.0021 + 0.0012 * rng.random() + 0.006 * math.exp(-i) + 0.003 * math.exp(i - blocks)
        for i in range(blocks)
    ]
    if damaged is not None:
        values[damaged] = 0.412
    kinds = {f"self_attn.{layer}": 0.004 + 0.006 * rng.random() for layer in LAYERS}
    kinds |= {"mlp.gate_proj": 0.021, "mlp.up_proj": 0.024, "mlp.down_proj": 0.036}
    worst = max(range(blocks), key=values.__getitem__)
    return AttributionResult(
        windows=8,
        length=512,
        texts=("wikitext-2", "notes/support-tickets.txt"),
        whole=sum(values) * 0.97,
        outside=0.0,
        blocks={f"model.layers.{i}": kl for i, kl in enumerate(values)},
        kinds=dict(sorted(kinds.items(), key=lambda item: -item[1])),
        suggestions=(
            Suggestion(
                f"skip model.layers.{worst}",
                sum(values) - values[worst],
                measured=True,
                bytes=5_200_000,
            ),
            Suggestion("w4-g32 in place of w4-g64", 0.087, bytes=4_100_000),
        ),
        drift=DriftResult(
            calibration="builtin, 128 x 512 tokens",
            yardstick=DriftFigures(0.93, 0.07),
            texts={
                "wikitext-2": DriftFigures(0.91, 0.08),
                "notes/support-tickets.txt": DriftFigures(0.64, 0.41),
            },
        ),
    )


FIXED = frozenset(["stage", "what", "direction", "use", "match", "counted", "left_out"])
NAMED = frozenset(["texts", "parts", "blocks", "kinds"])


def mapped(
    value: Any, on_text: Callable[[str], str] = str, on_number: Callable[[float], float] = float
) -> Any:
    """A copy of a record with every free text and every float in it changed, names included."""

    def change(each: Any) -> Any:
        return mapped(each, on_text, on_number)

    if isinstance(value, str):
        return on_text(value)
    if isinstance(value, float):
        return on_number(value)
    if isinstance(value, dict):
        return {key: change(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(change(each) for each in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {}
    for field in fields(value):
        each = getattr(value, field.name)
        if field.name in NAMED and isinstance(each, dict):
            each = {on_text(key): item for key, item in each.items()}
        changed[field.name] = each if field.name in FIXED else change(each)
    return replace(value, **changed)
