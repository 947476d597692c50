"""Quality of 4-bit models: KL to the 16-bit model on text that no quantizer was calibrated with, of
rounding to nearest, llm-compressor's AWQ, AutoRound with 200 iterations, and Salient's efforts,
with the same tokens and scheme, by the same code on the same windows.

    .venv/bin/python benchmarks/quality.py                       # all, demo model, 16 x 512 tokens
    .venv/bin/python benchmarks/quality.py --quantizer salient-best --quantizer autoround
    .venv/bin/python benchmarks/quality.py --model smollm2-135m --model llama --model gemma \\
        --model mixture --scheme w4-g64 --scheme w4-g128 --scheme w4-g64-sym --scheme w4-g128-sym \\
        --tokens 16x512 --tokens 256x512 --seed 0 --seed 1          # everything: more than a day
    .venv/bin/python benchmarks/quality.py --existing               # only judge what exists

The models are the demo model and those of `train_models.py`, the texts the unseen ones of
`texts.py`. Checkpoints of `against_peers.py` in WORK are reused if their inputs are unchanged;
missing ones are written, which takes AutoRound one to two hours each on 2 cores. A peer that fails
on a model is left out of its table.

The bars are for the demo model, and for the KL of each text: see BARS. Other models have none, but
show whether a result rests on one model. An interval of a ratio is the 95 % interval of a paired
bootstrap over windows. Writes WORK/quality.json. Exit code 1 if a bar is missed.

For real weights, `published_quality.py` has the published perplexities of Llama 2 and 3.
"""

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer

import against_peers
from against_peers import QUANTIZERS, Setting
from heldout_kl import PLAIN, Verdict, judge, ratio_interval
from machine import conditions, conditions_line
from salient.core.report import Report, Table, duration
from salient.core.scheme import parse_scheme
from subprocess_run import log_step
from texts import unrelated, windows

DEMO = "smollm2-135m"
# (ours, other) -> the highest ratio of KLs at w4-g64; other schemes may exceed it by MARGIN.
BARS = {
    ("salient-fast", PLAIN): 0.45,
    ("salient-fast", "llmcompressor-awq"): 0.85,
    ("salient-balanced", "llmcompressor-awq"): 0.55,
    ("salient-balanced", "autoround"): 0.80,
    ("salient-best", "llmcompressor-awq"): 0.47,
    ("salient-best", "autoround"): 0.70,
}
MARGIN = 0.05
POOLED = "all texts"


@dataclass(frozen=True)
class Ratio:
    """The KL of `ours` over that of `other` on one text, or the geometric mean over all.

    interval: 95 %   bar: None where none applies
    """

    ours: str
    other: str
    text: str
    ratio: float
    interval: tuple[float, float]
    bar: float | None

    @property
    def met(self) -> bool:
        return self.bar is None or self.ratio <= self.bar


def main() -> None:
    """Write missing checkpoints, measure all, report."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    results = [
        result
        for setting in against_peers.settings_of(options)
        if (result := measured(setting, options))
    ]
    data = {**conditions(), "windows": [options.windows, options.window_length], "results": results}
    (options.work / "quality.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=110))
    if not all(ratio["met"] for result in results for ratio in result["ratios"]):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    against_peers.add_options(parser)
    parser.add_argument(
        "--quantizer", action="append", choices=QUANTIZERS, help="default: all; repeatable"
    )
    parser.add_argument(
        "--text", action="append", default=[], help="measure on this text or file; repeatable"
    )
    parser.add_argument("--windows", type=int, default=16, help="windows per text")
    parser.add_argument("--window-length", type=int, default=512, help="tokens per window")
    parser.add_argument("--existing", action="store_true", help="write no checkpoint")
    return parser.parse_args()


def measured(setting: Setting, options: argparse.Namespace) -> dict[str, Any] | None:
    """The figures of one setting, for the JSON document; None without a checkpoint."""
    checkpoints = {}
    for who in options.quantizer or QUANTIZERS:
        if options.existing and not against_peers.is_current(who, setting):
            continue
        try:
            checkpoints[who] = against_peers.checkpoint(who, setting)
        except SystemExit:
            log_step(f"{who} failed on {setting.folder.name}; it is left out.")
    if not checkpoints:
        return None
    documents = unrelated(options.text, setting.seed)
    tokenizer = AutoTokenizer.from_pretrained(setting.source)
    ids = windows(documents, tokenizer, options.windows, options.window_length)
    verdict = judge(setting.source, checkpoints, ids, parse_scheme(setting.scheme))
    return {
        "setting": setting.described(),
        "texts": {
            text: {name: means.figures() for name, means in compared.items()}
            for text, compared in verdict.items()
        },
        "ratios": [{**vars(ratio), "met": ratio.met} for ratio in ratios(verdict, setting)],
        "cost": {
            who: (against_peers.read_stamp(who, setting) or {})["cost"] for who in checkpoints
        },
    }


def ratios(verdict: Verdict, setting: Setting) -> list[Ratio]:
    """Salient's KL over the others', of each text and of all."""
    measured_names = next(iter(verdict.values()))
    results = []
    for (ours, other), bar in BARS.items():
        if ours not in measured_names or other not in measured_names:
            continue
        bar = bar if setting.scheme == "w4-g64" else round(bar + MARGIN, 2)
        pairs = {text: (means[ours].kl, means[other].kl) for text, means in verdict.items()}
        for text in (*pairs, POOLED):
            chosen = list(pairs.values()) if text == POOLED else [pairs[text]]
            ratio, *interval = ratio_interval([p[0] for p in chosen], [p[1] for p in chosen])
            applies = bar if setting.model == DEMO and text != POOLED else None
            results.append(Ratio(ours, other, text, ratio, (interval[0], interval[1]), applies))
    return results


def report(data: dict[str, Any]) -> Report:
    """Of each setting: the measures by quantizer and text, then the ratios."""
    tables = []
    count, length = data["windows"]
    for result in data["results"]:
        setting, texts = result["setting"], result["texts"]
        title = (
            f"{setting['model']}, {setting['scheme']}, {setting['samples']} x "
            f"{setting['sequence_length']} tokens, seed {setting['seed']}; KL (nats) on {count} "
            f"windows of {length} tokens per text"
        )
        columns = ("", *texts, "top-1", "perplexity x", "process")
        tables.append(Table(title, columns, [_row(name, result) for name in _names(result)]))
        rows = [
            (
                r["ours"],
                r["other"],
                r["text"],
                f"{r['ratio']:.3f}",
                "{:.3f} to {:.3f}".format(*r["interval"]),
                "" if r["bar"] is None else f"{r['bar']:.2f} {'met' if r['met'] else 'MISSED'}",
            )
            for r in result["ratios"]
        ]
        tables.append(Table("", ("KL of", "over", "text", "ratio", "95 %", "at most"), rows))
    return Report(data, tables, [conditions_line(data)])


def _names(result: dict[str, Any]) -> list[str]:
    return list(next(iter(result["texts"].values())))


def _row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    """KL of each text, then means over the texts and the seconds of the run."""
    figures = [compared[name] for compared in result["texts"].values()]
    worse = [f["perplexity_quantized"] / f["perplexity_reference"] for f in figures]
    seconds = result["cost"].get(name, {}).get("seconds_process")
    return (
        name,
        *(f"{f['kl']:.4f}" for f in figures),
        f"{sum(f['top1'] for f in figures) / len(figures):.1%}",
        f"{math.prod(worse) ** (1 / len(worse)):.4f}",
        duration(seconds) if seconds else "",
    )


if __name__ == "__main__":
    main()
