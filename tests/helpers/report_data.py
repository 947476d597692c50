"""A validation's data as `salient validate` makes it, of any number of blocks, seeded.

The figures are invented, and of the size that a small model's checkpoint has.
"""

import math
import random
from typing import Any

KINDS = ("arithmetic", "code", "extraction", "knowledge", "language", "reasoning")
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")


def toy_data(blocks: int = 30, damaged: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Everything measured. damaged: the number of a block whose codes are wrong, which fails."""
    dice = random.Random(seed)
    data = {
        "checkpoint": "out/smollm2-135m-w4-g64",
        "reference": "smollm2-135m",
        "salient": "0.3.0",
        "date": "2026-11-21",
        "seconds": 1284.6,
        "machine": {
            "processor": "Intel(R) Xeon(R) Processor @ 2.70GHz",
            "cores": 2,
            "memory_bytes": 16 * 2**30,
            "gpus": [],
            "system": "Linux x86_64, Python 3.11.9",
            "device": "cpu",
        },
        "model": {
            "architecture": "LlamaForCausalLM",
            "blocks": blocks,
            "width": 576,
            "vocabulary": 49152,
            "scheme": "w4-g64",
            "format": "awq",
            "bits_per_weight": 4.3125,
        },
        "memory": {
            "reference_bytes": 269_060_552,
            "checkpoint_bytes": 115_203_584,
            "peak_bytes": 1_212_153_856,
            "parts": [
                {"name": "4-bit weights", "bytes": 53_084_160},
                {"name": "scales and zeros", "bytes": 5_479_424},
                {"name": "embedding and head", "bytes": 56_623_104},
                {"name": "norms", "bytes": 16_896},
            ],
        },
        "likelihood": toy_likelihood(dice, 1.0 if damaged is None else 6.5),
        "tasks": toy_tasks(dice, 0.05 if damaged is None else 0.25),
        "context": toy_context(dice),
        "load": toy_load(dice),
        "attribution": toy_attribution(dice, blocks, damaged),
    }
    data["verdict"] = toy_verdict(data, failed=damaged is not None)
    return data


def toy_likelihood(dice: random.Random, factor: float) -> dict[str, Any]:
    texts = {"wikitext-2": 0.105, "builtin (held out)": 0.112, "notes/support-tickets.txt": 0.083}
    found = {name: _text(dice, kl * factor, 12.0 + 6 * dice.random()) for name, kl in texts.items()}
    middle = sum(each["kl"] for each in found.values()) / len(found)
    everything = _text(dice, middle, 15.1, windows=30) | {"tokens": 30 * 1024}
    return {
        "protocol": "windows of 1024 tokens, side by side",
        "window_length": 1024,
        "stride": 1024,
        "seconds": 96.2,
        "texts": found,
        "all": everything,
        "published": [
            {
                "model": model,
                "text": "wikitext-2",
                "protocol": "windows of 2048",
                "reference": reference,
                "quantized": quantized,
                "scheme": "w4-g128",
                "source": source,
                "measured_reference": None,
                "measured_quantized": None,
            }
            for model, reference, quantized, source in (
                ("Llama-2-7B", 5.47, 5.60, "AWQ paper, table 4"),
                ("Llama-3-8B", 6.14, 6.54, "Huang et al. 2024, table 1"),
            )
        ],
    }


def _text(dice: random.Random, kl: float, perplexity: float, windows: int = 10) -> dict[str, Any]:
    increase, top1 = kl * 0.62, 1 - 0.52 * math.sqrt(kl)
    wide = 0.06 + 0.05 * dice.random()
    spread = {"kl": kl, "top1": top1, "perplexity_increase": increase}
    narrow = {"kl": 1.0, "top1": 0.1, "perplexity_increase": 1.5}
    return {
        "tokens": windows * 1024,
        "windows": windows,
        "kl": kl,
        "top1": top1,
        "perplexity_reference": perplexity,
        "perplexity_quantized": perplexity * (1 + increase),
        "perplexity_increase": increase,
        "intervals": {
            what: [v * (1 - wide * narrow[what]), v * (1 + wide * narrow[what] * 1.1)]
            for what, v in spread.items()
        },
    }


def toy_tasks(dice: random.Random, loss: float) -> dict[str, Any]:
    kinds, flips = {}, []
    for number, kind in enumerate(KINDS):
        count, chance = 100, 0.25 if kind in ("knowledge", "language", "reasoning") else 0.0
        right = round(count * (0.3 + 0.5 * dice.random()))
        lost = round(right * loss * (0.5 + dice.random()))
        gained = dice.randrange(3)
        kinds[kind] = _tally(count, right, lost, gained, chance)
        flips += [
            toy_flip(dice, kind, f"{kind}:{7 * i + number}", "lost" if i < lost else "gained")
            for i in range(lost + gained)
        ]
    sums = {k: sum(t[k] for t in kinds.values()) for k in ("count", "lost", "gained", "changed")}
    right = round(sum(t["accuracy_reference"] * t["count"] for t in kinds.values()))
    total = _tally(sums["count"], right, sums["lost"], sums["gained"], 0.125)
    return {
        "sets": list(KINDS),
        **total,
        "changed": sums["changed"],
        "kinds": kinds,
        "flips": flips,
        "throughput": {
            "reference": _speed(512.0, 96_000, 31.4, "bfloat16, transformers"),
            "quantized": _speed(297.0, 96_000, 54.1, "4-bit, the cpu kernel"),
        },
        "notes": ["Answers are greedy, of at most 64 tokens."],
    }


def _tally(count: int, right: int, lost: int, gained: int, chance: float) -> dict[str, Any]:
    after = right - lost + gained
    retention = after / right if right else None
    noise = 1.96 * math.sqrt(lost + gained) / right if right else 0
    return {
        "count": count,
        "accuracy_reference": right / count,
        "accuracy_quantized": after / count,
        "retention": retention,
        "chance": chance,
        "lost": lost,
        "gained": gained,
        "changed": 9,
        "p_value": min(1.0, 2 * 0.5 ** max(lost - gained, 0)),
        "interval": None if retention is None else [retention - noise, retention + noise],
    }


def toy_flip(dice: random.Random, kind: str, name: str, direction: str) -> dict[str, Any]:
    a, b = dice.randrange(11, 99), dice.randrange(11, 99)
    right = f"{a} + {b} = {a + b}. The answer is {a + b}."
    wrong = f"{a} + {b} = {a + b - 10}. The answer is {a + b - 10}."
    pair = (right, wrong) if direction == "lost" else (wrong, right)
    return {
        "id": name,
        "kind": kind,
        "direction": direction,
        "prompt": f"Question: A box holds {a} red and {b} blue pencils. How many is that?\nAnswer:",
        "expected": [str(a + b)],
        "reference": pair[0],
        "quantized": pair[1],
    }


def _speed(seconds: float, prompt: int, rate: float, runs_as: str) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "prompt_tokens": prompt,
        "new_tokens": round(seconds * rate),
        "tokens_a_second": rate,
        "runs_as": runs_as,
    }


def toy_context(dice: random.Random) -> dict[str, Any]:
    positions = []
    for first in range(0, 4096, 128):
        kl = 0.1 + 0.028 * math.log1p(first / 400) + dice.gauss(0, 0.004)
        positions.append(
            {"first": first, "last": first + 127, "kl": kl, "interval": [kl * 0.9, kl * 1.12]}
        )
    rows = []
    for length in (512, 1024, 2048, 4096):
        for depth in (0.1, 0.3, 0.5, 0.7, 0.9):
            reference = 8 - (dice.random() < length / 6000) * dice.randrange(1, 4)
            lost = (dice.random() < length / 5000) * dice.randrange(0, 3)
            rows.append(
                {
                    "length": length,
                    "depth": depth,
                    "count": 8,
                    "reference": reference,
                    "quantized": max(0, reference - lost),
                }
            )
    return {
        "text": "builtin (held out)",
        "lengths": [
            {
                "length": length,
                "windows": 16384 // length,
                "tokens": 16384,
                "kl": 0.108 + 0.004 * step,
                "top1": 0.83 - 0.004 * step,
                "perplexity_reference": 16.4 - step,
                "perplexity_quantized": 17.6 - step,
                "intervals": {"kl": [0.1 + 0.004 * step, 0.117 + 0.004 * step]},
            }
            for step, length in enumerate((512, 1024, 2048, 4096))
        ],
        "positions": positions,
        "positions_length": 4096,
        "growth": {
            "value": 1.33,
            "interval": [1.21, 1.46],
            "words": "the last quarter's KL over the first quarter's",
        },
        "retrieval": {
            "rows": rows,
            "reference": sum(r["reference"] for r in rows),
            "quantized": sum(r["quantized"] for r in rows),
            "count": 8 * len(rows),
            "notes": [],
        },
    }


def toy_load(dice: random.Random) -> dict[str, Any]:
    return {
        "target": "embedded",
        "model": "out/smollm2-135m-w4-g64",
        "tool": "salient",
        "steps": [_step(dice, concurrency) for concurrency in (1, 2, 4, 8, 16, 32)],
    }


def _step(dice: random.Random, concurrency: int) -> dict[str, Any]:
    rate = 54.0 * concurrency / (1 + concurrency / 9)
    ttft, itl = 60.0 + 22 * concurrency, 18.0 + 3.1 * concurrency
    failed = 3 if concurrency == 32 else 0
    return {
        "tool": "salient",
        "concurrency": concurrency,
        "rate": None,
        "ttft": _spread(dice, ttft),
        "itl": _spread(dice, itl),
        "tpot": _spread(dice, itl),
        "e2e": _spread(dice, ttft + 64 * itl),
        "counted": "server",
        "note": "",
        "seconds": 64 * 100 / rate,
        "completed": 100 - failed,
        "input_tokens": 25_600,
        "output_tokens": 64 * (100 - failed),
        "failures": [{"kind": "timeout", "count": failed, "words": "no byte for 60 s"}]
        * bool(failed),
        "peak": concurrency,
        "requests": 100,
        "failed": failed,
        "requests_per_second": rate / 64,
        "output_tokens_per_second": rate,
        "total_tokens_per_second": rate * 5,
    }


def _spread(dice: random.Random, middle: float) -> dict[str, float]:
    return {
        "mean": middle * 1.04,
        "p50": middle,
        "p90": middle * (1.3 + 0.1 * dice.random()),
        "p99": middle * (1.9 + 0.3 * dice.random()),
    }


def toy_attribution(dice: random.Random, blocks: int, damaged: int | None) -> dict[str, Any]:
    each = [
        0.0021 + 0.0012 * dice.random() + 0.006 * math.exp(-i) + 0.003 * math.exp(i - blocks)
        for i in range(blocks)
    ]
    if damaged is not None:
        each[damaged] = 0.412
    kinds = {f"self_attn.{layer}": 0.004 + 0.006 * dice.random() for layer in LAYERS}
    kinds |= {"mlp.gate_proj": 0.021, "mlp.up_proj": 0.024, "mlp.down_proj": 0.036}
    worst = max(range(blocks), key=each.__getitem__)
    return {
        "windows": 8,
        "length": 512,
        "whole": sum(each) * 0.97,
        "blocks": [{"name": f"model.layers.{i}", "kl": kl} for i, kl in enumerate(each)],
        "kinds": [{"name": name, "kl": kl} for name, kl in kinds.items()],
        "suggestions": [
            {
                "what": f"keep model.layers.{worst} in 16 bit",
                "kl": sum(each) - each[worst],
                "measured": True,
                "bytes": 5_200_000,
            },
            {
                "what": "w4-g32 in place of w4-g64",
                "kl": 0.087,
                "measured": False,
                "bytes": 4_100_000,
            },
        ],
        "outside": 0.0,
        "notes": [],
        "drift": {
            "yardstick": {"kept_salient": 0.93, "log_ratio": 0.07},
            "texts": [
                {
                    "text": "wikitext-2",
                    "kept_salient": 0.91,
                    "log_ratio": 0.08,
                    "words": "like the calibration texts",
                },
                {
                    "text": "notes/support-tickets.txt",
                    "kept_salient": 0.64,
                    "log_ratio": 0.41,
                    "words": "other channels are salient here: calibrate on such texts too",
                },
            ],
            "calibration": "builtin, 128 x 512 tokens",
        },
    }


def toy_rule(
    stage: str, what: str, value: float | None, interval: list[float] | None, *asked: Any
) -> dict[str, Any]:
    """asked: bound, direction, unit, passed, words."""
    bound, direction, unit, passed, words = asked
    ends = interval and dict(zip(("low", "high"), interval, strict=True))
    return {
        "stage": stage,
        "what": what,
        "kind": "all",
        "value": value,
        "interval": ends and {**ends, "middle": value, "level": 0.95},
        "bound": bound,
        "direction": direction,
        "unit": unit,
        "passed": passed,
        "words": words,
    }


def toy_verdict(data: dict[str, Any], *, failed: bool) -> dict[str, Any]:
    whole, tasks = data["likelihood"]["all"], data["tasks"]
    found = [
        ("likelihood", "kl", whole["kl"], whole["intervals"]["kl"], 0.15, "nats a token"),
        ("likelihood", "top1", whole["top1"], whole["intervals"]["top1"], 0.8, "share of tokens"),
        (
            "likelihood",
            "perplexity_increase",
            whole["perplexity_increase"],
            whole["intervals"]["perplexity_increase"],
            0.12,
            "ratio - 1",
        ),
        ("tasks", "retention", tasks["retention"], tasks["interval"], 0.9, "of the reference's"),
        ("context", "kl_growth", 1.33, [1.21, 1.46], 1.5, "last / first quarter"),
        ("load", "error_rate", 0.005, None, 0.02, "share of requests"),
        ("load", "ttft_p90", 0.412, None, 1.5, "s"),
        ("load", "throughput", 211.0, None, 100.0, "tokens/s"),
    ]
    least = {"top1", "retention", "throughput"}
    rules = []
    for stage, what, value, interval, bound, unit in found:
        direction = "at least" if what in least else "at most"
        passed = value >= bound if what in least else value <= bound
        no = "" if passed else "not "
        words = f"{value:.4g} is {no}{direction} {bound:g}"
        rules.append(toy_rule(stage, what, value, interval, bound, direction, unit, passed, words))
    assert failed is any(rule["passed"] is False for rule in rules)
    return {
        "verdict": "fail" if failed else "pass",
        "exit_code": int(failed),
        "policy": "balanced",
        "use": "middle",
        "left_out": [],
        "rules": rules,
    }
