"""How long `salient quantize` takes, against llm-compressor's AWQ: the same model, tokens and
scheme, one after the other, in one run on one machine.

Two ratios are reported. The conservative one is the headline: the seconds that llm-compressor
itself spends quantizing, without imports, loading or saving, over Salient's whole process, with all
of that. The other compares whole process with whole process.

Correct before fast: no time is reported unless both checkpoints hold the same quantized linears and
each one's KL on held-out text is finite and below plain rounding's.

    .venv/bin/python benchmarks/quantize.py                # about half an hour, nearly all the peer
    .venv/bin/python benchmarks/quantize.py --no-peer
    .venv/bin/python benchmarks/quantize.py --samples 4 --sequence-length 64 --more-samples 0

Leaves the checkpoints in WORK/salient and WORK/llmcompressor, where `quality.py` finds them, and
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
from machine import conditions, in_words
from salient.core.corpus import builtin
from salient.core.report import Report, Table, duration, mebibytes
from salient.models.model_folder import model_folder
from subprocess_run import Finished, say
from texts import unseen, windows

CONTESTANTS = (OURS, PEER) = ("salient-awq", "llmcompressor-awq")
CHECK = (4, 512)  # windows and tokens of the check before times are told: `quality.py` measures


def main() -> None:
    """Run the contest, check what was written, report."""
    given = parse()
    setting = against_peers.setting_of(given)
    folders = {
        who: setting.work / against_peers.FOLDERS[who] for who in CONTESTANTS[: 1 + given.peer]
    }
    runs = {who: against_peers.make(who, setting) for who in folders}
    if given.more_samples:
        name = f"{OURS}, {given.more_samples} samples"
        folders[name] = setting.work / f"salient-{given.more_samples}"
        runs[name] = against_peers.run_salient(setting, folders[name], given.more_samples)
    data: dict[str, Any] = {
        **conditions(),
        "setting": setting.described(),
        "kl_check": checked(setting, folders),
        "runs": {name: figures(run) for name, run in runs.items()},
        "ratios": ratios(runs[OURS], runs[PEER]) if given.peer else {},
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
        help="samples of a second run of Salient's, without the peer (0: none)",
    )
    return parser.parse_args()


def checked(setting: Setting, checkpoints: dict[str, Path]) -> dict[str, float]:
    """The KL of each on a few held-out windows. Stops the benchmark if one is not below plain
    rounding's."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(setting.model))
    ids = windows({"heldout": unseen("heldout", builtin("heldout"))}, tokenizer, *CHECK)
    found = judge(setting.model, checkpoints, ids)["heldout"]
    kl = {name: comparison.kl for name, comparison in found.items()}
    say(", ".join(f"{name}: KL {value:.4f}" for name, value in kl.items()))
    for name in checkpoints:
        if not math.isfinite(kl[name]) or kl[name] >= kl[PLAIN]:
            say(f"{name} is no better than plain rounding; no time is reported.")
            raise SystemExit(1)
    return kl


def figures(run: Finished) -> dict[str, Any]:
    """What a run cost, with what the tool says of itself."""
    says = json.loads(run.out if run.out.startswith("{") else run.out.splitlines()[-1])
    own = {"seconds_own": says["seconds"]} if "seconds" in says else says
    return {**run.cost(), **own}


def ratios(ours: Finished, peer: Finished) -> dict[str, float]:
    """How many times Salient's time the peer takes, by both definitions."""
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
    return Report(data, [Table(title, columns, rows)], [*lines, in_words(data)])


if __name__ == "__main__":
    main()
