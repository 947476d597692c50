"""Quality of 4-bit models: KL to the 16-bit model on text that no quantizer was calibrated with, of
rounding to nearest, llm-compressor's rounding to nearest, its AWQ, and Salient's, with the same
tokens and scheme, by the same code on the same windows.

    .venv/bin/python benchmarks/quality.py
    .venv/bin/python benchmarks/quality.py --text mine.txt --text other.jsonl

The texts are the held-out part of the built-in corpus and, where Debian's `dict-jargon` is
installed (`apt-get install dict-jargon`), the Jargon File; `--text` replaces them. See `texts.py`
for excluded documents. Checkpoints of `quantize.py` in WORK are reused if model, scheme, tokens and
code are the same; missing ones are written, which takes the peer half an hour.

The bars, for the KL of each text: Salient at most 0.45 of rounding to nearest and at most 0.85 of
llm-compressor's AWQ. Writes WORK/quality.json. Exit code 1 if a bar is missed.
"""

import argparse
import json
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer

import against_peers
from heldout_kl import PLAIN, Verdict, judge
from machine import conditions, conditions_line
from salient.core.report import Report, Table
from salient.models.model_folder import model_folder
from texts import unrelated, windows

OURS = "salient-awq"
BARS = {PLAIN: 0.45, "llmcompressor-awq": 0.85}  # limits of Salient's KL over theirs


def main() -> None:
    """Write missing checkpoints, measure all, report."""
    options = parse()
    setting = against_peers.setting_of(options)
    texts = unrelated(options.text)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(setting.model))
    ids = windows(texts, tokenizer, options.windows, options.window_length)
    checkpoints = {who: against_peers.checkpoint(who, setting) for who in against_peers.QUANTIZERS}
    verdict = judge(setting.model, checkpoints, ids)
    data = {
        **conditions(),
        "setting": setting.described(),
        "windows": [options.windows, options.window_length],
        "bars": BARS,
        "texts": {text: figures(verdict, text) for text in verdict},
    }
    (setting.work / "quality.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=100))
    if not all(ratio["met"] for text in data["texts"].values() for ratio in text["ratios"]):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    against_peers.add_options(parser)
    parser.add_argument(
        "--text", action="append", default=[], help="measure on this file; repeatable"
    )
    parser.add_argument("--windows", type=int, default=16, help="windows per text")
    parser.add_argument("--window-length", type=int, default=512, help="tokens per window")
    return parser.parse_args()


def figures(verdict: Verdict, text: str) -> dict[str, Any]:
    """The measures of every checkpoint on one text, and Salient's KL over the others'."""
    comparisons = verdict[text]
    ratios = []
    for other, bar in BARS.items():
        ratio = comparisons[OURS].kl / comparisons[other].kl
        ratios.append({"over": other, "ratio": ratio, "bar": bar, "met": ratio <= bar})
    return {
        "checkpoints": {name: comparison.figures() for name, comparison in comparisons.items()},
        "ratios": ratios,
    }


def report(data: dict[str, Any]) -> Report:
    """The tables: measures by text and checkpoint, then ratios with their bars."""
    measures, ratios = [], []
    for text, comparisons in data["texts"].items():
        for name, m in comparisons["checkpoints"].items():
            perplexity = (f"{m['perplexity_quantized']:.3f}", f"{m['perplexity_reference']:.3f}")
            measures.append((name, text, f"{m['kl']:.4f}", f"{m['top1']:.1%}", *perplexity))
        for r in comparisons["ratios"]:
            result = "met" if r["met"] else "MISSED"
            ratios.append((r["over"], text, f"{r['ratio']:.3f}", f"{r['bar']:.2f}", result))
    setting, (count, length) = data["setting"], data["windows"]
    title = f"{setting['model']}, {setting['scheme']}; {count} windows of {length} tokens per text"
    columns = ("", "text", "KL (nats)", "top-1", "perplexity", "of the reference")
    tables = [
        Table(title, columns, measures),
        Table("Salient's KL over", ("over", "text", "ratio", "at most", "bar"), ratios),
    ]
    return Report(data, tables, [conditions_line(data)])


if __name__ == "__main__":
    main()
