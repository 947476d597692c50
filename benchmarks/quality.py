"""How close each 4-bit model stays to its 16-bit one on text that no quantizer was calibrated with:
plain rounding, llm-compressor's plain rounding, its AWQ, and Salient's, on the same tokens and
scheme, all measured by the same code on the same windows.

    .venv/bin/python benchmarks/quality.py
    .venv/bin/python benchmarks/quality.py --text mine.txt --text other.jsonl

The texts are the held-out part of the built-in corpus and, where Debian's `dict-jargon` is
installed (`apt-get install dict-jargon`), the Jargon File; `--text` takes their place. See
`texts.py` for what is left out. Checkpoints that `quantize.py` left in WORK are used again if they
are of this very model, scheme, tokens and code; missing ones are made, which takes the peer half an
hour.

The bars, for the KL of each text: Salient at most 0.45 of plain rounding and at most 0.85 of
llm-compressor's AWQ. Writes WORK/quality.json. Exit code 1 if a bar is missed.
"""

import argparse
import json
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer

import against_peers
from heldout_kl import PLAIN, Verdict, judge
from machine import conditions, in_words
from salient.core.report import Report, Table
from salient.models.model_folder import model_folder
from texts import unrelated, windows

OURS = "salient-awq"
BARS = {PLAIN: 0.45, "llmcompressor-awq": 0.85}  # the most that Salient's KL may be of theirs


def main() -> None:
    """Fetch or make the checkpoints, measure them, report."""
    given = parse()
    setting = against_peers.setting_of(given)
    texts = unrelated(given.text)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(setting.model))
    ids = windows(texts, tokenizer, given.windows, given.window_length)
    checkpoints = {who: against_peers.checkpoint(who, setting) for who in against_peers.MAKERS}
    verdict = judge(setting.model, checkpoints, ids)
    data = {
        **conditions(),
        "setting": setting.described(),
        "windows": [given.windows, given.window_length],
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
        "--text", action="append", default=[], help="measure on this file; may be given again"
    )
    parser.add_argument("--windows", type=int, default=16, help="windows of each text")
    parser.add_argument("--window-length", type=int, default=512, help="tokens a window")
    return parser.parse_args()


def figures(verdict: Verdict, text: str) -> dict[str, Any]:
    """The measures of every contestant on one text, and Salient's KL over the others'."""
    found = verdict[text]
    ratios = []
    for other, bar in BARS.items():
        ratio = found[OURS].kl / found[other].kl
        ratios.append({"over": other, "ratio": ratio, "bar": bar, "met": ratio <= bar})
    return {
        "contestants": {name: comparison.figures() for name, comparison in found.items()},
        "ratios": ratios,
    }


def report(data: dict[str, Any]) -> Report:
    """The tables: measures by text and contestant, then ratios beside their bars."""
    measures, ratios = [], []
    for text, found in data["texts"].items():
        for name, m in found["contestants"].items():
            perplexity = (f"{m['perplexity_quantized']:.3f}", f"{m['perplexity_reference']:.3f}")
            measures.append((name, text, f"{m['kl']:.4f}", f"{m['top1']:.1%}", *perplexity))
        for r in found["ratios"]:
            told = "met" if r["met"] else "MISSED"
            ratios.append((r["over"], text, f"{r['ratio']:.3f}", f"{r['bar']:.2f}", told))
    setting, (count, length) = data["setting"], data["windows"]
    title = f"{setting['model']}, {setting['scheme']}; {count} windows of {length} tokens a text"
    columns = ("", "text", "KL (nats)", "top-1", "perplexity", "of the reference")
    tables = [
        Table(title, columns, measures),
        Table("Salient's KL over", ("over", "text", "ratio", "at most", "bar"), ratios),
    ]
    return Report(data, tables, [in_words(data)])


if __name__ == "__main__":
    main()
