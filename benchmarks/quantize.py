"""Time of `salient quantize` and of llm-compressor's AWQ: the same model, tokens and scheme, one
after the other on one machine.

Two ratios are reported. The conservative one is the headline: llm-compressor's seconds of
quantizing, without imports, loading and saving, over Salient's whole process. The other compares
whole processes.

Times are reported only if both checkpoints have the same quantized linears and each one's KL on
held-out text is finite and below that of rounding to nearest.

    .venv/bin/python benchmarks/quantize.py                # about half an hour, nearly all the peer
    .venv/bin/python benchmarks/quantize.py --no-peer
    .venv/bin/python benchmarks/quantize.py --samples 4 --sequence-length 64 --more-samples 0

Writes the checkpoints to WORK/salient and WORK/llmcompressor, which `quality.py` reuses, and
WORK/quantize.json. Exit code 1 if a checkpoint is not correct.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer

import against_peers
from against_peers import Setting
from heldout_kl import PLAIN, judge
from machine import conditions, conditions_line
from salient.core.corpus import builtin
from salient.core.report import Report, Table, duration, mebibytes
from salient.models.model_folder import model_folder
from subprocess_run import FinishedRun, log_step
from texts import windows, without_shared_text

QUANTIZERS = (OURS, PEER) = ("salient-awq", "llmcompressor-awq")
CHECK = (4, 512)  # windows and tokens of the check; `quality.py` measures more


def main() -> None:
    """Run both, check the checkpoints, report."""
    options = parse()
    setting = against_peers.setting_of(options)
    folders = {
        who: setting.work / against_peers.FOLDERS[who] for who in QUANTIZERS[: 1 + options.peer]
    }
    runs = {who: against_peers.write_checkpoint(who, setting) for who in folders}
    if options.more_samples:
        name = f"{OURS}, {options.more_samples} samples"
        folders[name] = setting.work / f"salient-{options.more_samples}"
        runs[name] = against_peers.run_salient(setting, folders[name], options.more_samples)
    data: dict[str, Any] = {
        **conditions(),
        "setting": setting.described(),
        "kl_check": checked(setting, folders),
        "runs": {name: figures(run) for name, run in runs.items()},
        "ratios": ratios(runs[OURS], runs[PEER]) if options.peer else {},
    }
    (setting.work / "quantize.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=100))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    against_peers.add_options(parser)
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="Salient alone")
    parser.add_argument(
        "--more-samples",
        type=int,
        default=128,
        help="samples of a second run of Salient (0: none)",
    )
    return parser.parse_args()


def checked(setting: Setting, checkpoints: dict[str, Path]) -> dict[str, float]:
    """The KL of each on a few held-out windows. Exits unless it is below that of rounding to
    nearest."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(setting.model))
    documents = without_shared_text("heldout", builtin("heldout"))
    ids = windows({"heldout": documents}, tokenizer, *CHECK)
    comparisons = judge(setting.model, checkpoints, ids)["heldout"]
    kl = {name: comparison.kl for name, comparison in comparisons.items()}
    log_step(", ".join(f"{name}: KL {value:.4f}" for name, value in kl.items()))
    for name in checkpoints:
        if not math.isfinite(kl[name]) or kl[name] >= kl[PLAIN]:
            log_step(f"{name} is no better than rounding to nearest; no time is reported.")
            raise SystemExit(1)
    return kl


def figures(run: FinishedRun) -> dict[str, Any]:
    """The cost of a run, and the figures that the tool reports."""
    reported = json.loads(run.out if run.out.startswith("{") else run.out.splitlines()[-1])
    own = {"seconds_own": reported["seconds"]} if "seconds" in reported else reported
    return {**run.cost(), **own}


def ratios(ours: FinishedRun, peer: FinishedRun) -> dict[str, float]:
    """The peer's time over Salient's, by both definitions."""
    quantizing = figures(peer)["seconds_quantize"]
    return {
        "the peer's quantizing alone / Salient's whole process": quantizing / ours.seconds,
        "whole process / whole process": peer.seconds / ours.seconds,
    }


def report(data: dict[str, Any]) -> Report:
    """The table of times, peaks and ratios."""
    rows = []
    for name, run in data["runs"].items():
        alone = run.get("seconds_quantize")
        times = (duration(run["seconds_process"]), duration(alone) if alone else "")
        rows.append((name, *times, mebibytes(run["peak_bytes"]), f"{data['kl_check'][name]:.4f}"))
    setting = data["setting"]
    title = (
        f"{setting['model']}, {setting['scheme']}, "
        f"{setting['samples']} x {setting['sequence_length']} tokens"
    )
    columns = ("", "process", "quantizing", "peak memory", "KL (check)")
    lines = [f"{name}: {value:.1f} x" for name, value in data["ratios"].items()]
    return Report(data, [Table(title, columns, rows)], [*lines, conditions_line(data)])


if __name__ == "__main__":
    main()
