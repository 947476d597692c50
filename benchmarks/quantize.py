"""Time of `salient quantize` by effort, of llm-compressor's AWQ and of AutoRound: the same model,
tokens and scheme, one after the other on one machine.

The tokens are drawn before, so no time includes tokenizing. Two ratios are reported. The
conservative one is the headline: the peer's seconds of quantizing, without imports, loading and
saving, over Salient's whole process. The other compares whole processes.

Times are reported only if all checkpoints have the same quantized linears and each one's KL on
held-out text is finite and below that of rounding to nearest.

    .venv/bin/python benchmarks/quantize.py                # about half an hour, nearly all the peer
    .venv/bin/python benchmarks/quantize.py --tokens 256x512 --quantizer salient-fast \\
        --quantizer salient-balanced --quantizer salient-best --quantizer autoround     # hours
    .venv/bin/python benchmarks/quantize.py --no-peer
    .venv/bin/python benchmarks/quantize.py --tokens 4x64

The bars: `balanced` takes at most 4 times `fast`, and `best` at most a third of AutoRound. Writes
the checkpoints to WORK, where `quality.py` reuses them, and WORK/quantize.json. Exit code 1 if a
checkpoint is not correct or a bar is missed.
"""

import argparse
import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer

import against_peers
from against_peers import QUANTIZERS, Setting
from heldout_kl import PLAIN, judge
from machine import conditions, conditions_line
from salient.core.corpus import builtin
from salient.core.report import Report, Table, duration, mebibytes
from salient.core.scheme import parse_scheme
from subprocess_run import FinishedRun, log_step
from texts import windows, without_shared_text

PEER = "llmcompressor-awq"
OURS = [name for name in QUANTIZERS if name.startswith("salient-")]
CHECK = (4, 512)  # windows and tokens of the check; `quality.py` measures more
# (one, other) -> the most that the whole process of one takes, as a multiple of the other's
BARS = {("salient-balanced", "salient-fast"): 4.0, ("salient-best", "autoround"): 1 / 3}


def main() -> None:
    """Run all, check the checkpoints, report."""
    options = parse()
    who = options.quantizer or (OURS + [PEER] * options.peer)
    results = [timed(setting, who) for setting in against_peers.settings_of(options)]
    data: dict[str, Any] = {**conditions(), "results": results}
    (options.work / "quantize.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=100))
    if not all(bar["met"] for result in results for bar in result["bars"]):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    against_peers.add_options(parser)
    parser.add_argument("--quantizer", action="append", choices=QUANTIZERS, help="repeatable")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="Salient alone")
    return parser.parse_args()


def timed(setting: Setting, who: list[str]) -> dict[str, Any]:
    """Run every quantizer on one setting: its figures, for the JSON document."""
    runs = {name: against_peers.write_checkpoint(name, setting) for name in who}
    costs = {name: figures(run) for name, run in runs.items()}
    return {
        "setting": setting.described(),
        "kl_check": checked(setting, who),
        "runs": costs,
        "ratios": ratios(costs),
        "bars": bars(costs),
    }


def checked(setting: Setting, who: list[str]) -> dict[str, float]:
    """The KL of each on a few held-out windows. Exits unless it is below that of rounding to
    nearest."""
    tokenizer = AutoTokenizer.from_pretrained(setting.source)
    documents = without_shared_text("heldout", builtin("heldout"))
    ids = windows({"heldout": documents}, tokenizer, *CHECK)
    checkpoints = {name: setting.folder / name for name in who}
    means = judge(setting.source, checkpoints, ids, parse_scheme(setting.scheme))["heldout"]
    kl = {name: float(of_windows.kl.mean()) for name, of_windows in means.items()}
    log_step(", ".join(f"{name}: KL {value:.4f}" for name, value in kl.items()))
    for name in who:
        if not math.isfinite(kl[name]) or kl[name] >= kl[PLAIN]:
            log_step(f"{name} is no better than rounding to nearest; no time is reported.")
            raise SystemExit(1)
    return kl


def figures(run: FinishedRun) -> dict[str, Any]:
    """The cost of a run, and the figures that the tool reports."""
    return {**run.cost(), **json.loads(against_peers.last_line(run))}


def ratios(costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every peer's time over every effort's, by both definitions."""
    return [
        {
            "peer": peer,
            "ours": ours,
            "quantizing_over_process": costs[peer]["seconds_quantize"]
            / costs[ours]["seconds_process"],
            "process_over_process": costs[peer]["seconds_process"] / costs[ours]["seconds_process"],
        }
        for peer in costs
        if peer not in OURS
        for ours in costs
        if ours in OURS
    ]


def bars(costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bars whose both sides ran."""
    return [
        {"of": one, "over": other, "ratio": ratio, "bar": bar, "met": ratio <= bar}
        for (one, other), bar in BARS.items()
        if one in costs and other in costs
        for ratio in (costs[one]["seconds_process"] / costs[other]["seconds_process"],)
    ]


def report(data: dict[str, Any]) -> Report:
    """Of each setting: times, peaks, ratios and bars."""
    tables, lines = [], []
    for result in data["results"]:
        setting = result["setting"]
        rows = [
            (
                name,
                duration(run["seconds_process"]),
                duration(run["seconds_quantize"]),
                mebibytes(run["peak_bytes"]),
                f"{result['kl_check'][name]:.4f}",
            )
            for name, run in result["runs"].items()
        ]
        title = (
            f"{setting['model']}, {setting['scheme']}, "
            f"{setting['samples']} x {setting['sequence_length']} tokens"
        )
        columns = ("", "process", "quantizing", "peak memory", "KL (check)")
        tables.append(Table(title, columns, rows))
        for r in result["ratios"]:
            lines.append(
                f"{r['peer']} / {r['ours']}: {r['quantizing_over_process']:.1f} (its quantizing "
                f"alone / whole process), {r['process_over_process']:.1f} (whole processes)"
            )
        for b in result["bars"]:
            lines.append(
                f"{b['of']} / {b['over']}: {b['ratio']:.2f}, at most {b['bar']:.2f}: "
                f"{'met' if b['met'] else 'MISSED'}"
            )
    return Report(data, tables, [*lines, conditions_line(data)])


if __name__ == "__main__":
    main()
