"""Speed of Salient's runtime on this CPU, with llama.cpp, Transformers and vLLM for comparison.

    .venv/bin/python benchmarks/run_cpu.py
    .venv/bin/python benchmarks/run_cpu.py --only demo --rounds 5
    .venv/bin/python benchmarks/run_cpu.py --quick     # tests the script: no valid figures

The same machine, prompt and threads for all; each run is a new process, Salient and a peer
alternate, and the median of their ratios is compared with the bar. In order:

    correct   the runtime's logits agree with the checkpoint (KL below 1e-3, in float32 and in
              bfloat16), and answers with and without fusion are the same. If float32 fails, nothing
              is timed
    demo      SmolLM2-135M, w4-g64 (llama.cpp: its wheel's own Q4_1), 512 tokens of prompt: decode
              at least 1.3 x as fast as llama.cpp, prefill 2 x, decode 5 x Transformers in bfloat16
    together  8 sequences in one batch give at least 3 x the tokens a second of one
    billion   a random Llama of 1.1 billion parameters, w4-g128: decode at least 3 x as fast as
              Transformers in bfloat16, and at most 1.5 x the time of reading its weights
    memory    resident after loading the demo checkpoint: at most 1.3 x its file + 400 MB (1e6)

Writes WORK/cpu.json. Exit code 1 if a bar is missed, 2 if an engine failed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from cpu_parts import LENGTH, PARTS, Bar, Part, Setting
from machine import conditions, conditions_line
from paired_rounds import median_of
from salient.core.report import Report, Table
from subprocess_run import log_step

TIMED = ("demo", "together", "billion")
QUICK: dict[str, Any] = {
    "rounds": 1,
    "repeats": 1,
    "prompt_tokens": 64,
    "new_tokens": 20,
    "blocks": 2,
    "windows": ("--windows", "2", "--window-length", "64", "--answer-tokens", "8"),
}


def main() -> int:
    """Run the parts, report; returns the exit code."""
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    setting = setting_of(options)
    setting.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Part] = {}
    for name in options.only or PARTS:
        if name in TIMED and "correct" in results and not results["correct"].bars[0].met:
            log_step(f"The runtime is not correct in float32, so {name!r} is not timed.")
            continue
        results[name] = PARTS[name](setting)
    data = {
        **conditions(),
        "quick": options.quick,
        "setting": {"rounds": setting.rounds, "threads": setting.threads},
        "parts": {name: part.data() for name, part in results.items()},
    }
    document = report(data, results)
    for path in filter(None, (setting.work / "cpu.json", options.json)):
        path.write_text(document.to_json() + "\n")
    document.show(Console(width=100))
    return 0 if all(bar.met for part in results.values() for bar in part.bars) else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes of everything")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs for each ratio")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".work/cpu"))
    return parser.parse_args()


def setting_of(options: argparse.Namespace) -> Setting:
    """The Setting of the options."""
    thorough: dict[str, Any] = {
        "rounds": options.rounds,
        "repeats": 5,
        "prompt_tokens": LENGTH,
        "new_tokens": 128,
        "blocks": 22,
        "windows": (),
    }
    return Setting(options.work, options.threads, **(QUICK if options.quick else thorough))


def report(data: dict[str, Any], results: dict[str, Part]) -> Report:
    """The bars, then the figures of every engine."""
    bars = [row(name, bar) for name, part in results.items() for bar in part.bars]
    title = "Salient on this CPU" + (" (quick: no valid figures)" if data["quick"] else "")
    tables = [Table(title, ("part", "measure", "median", "lowest to highest", "bar", ""), bars)]
    speeds = [
        speed(name, runs) for part in results.values() for name, runs in part.speeds.items() if runs
    ]
    if speeds:
        columns = ("engine", "decode", "tokens/s", "prefill", "prompt", "8 together", "runs")
        tables.append(Table("Medians of each engine's processes", columns, speeds))
    return Report(data, tables, [*remarks(results), conditions_line(data)])


def row(part: str, bar: Bar) -> tuple[str, ...]:
    """A bar as text."""
    spread = f"{min(bar.samples):.3g} to {max(bar.samples):.3g}" if len(bar.samples) > 1 else ""
    limit = f"{'>=' if bar.at_least else '<='} {bar.limit:.4g}"
    return part, bar.what, f"{bar.measured:.4g}", spread, limit, "met" if bar.met else "MISSED"


def speed(name: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """An engine's figures as text."""
    decode, prefill = median_of(runs, "decode_seconds"), median_of(runs, "prefill_seconds")
    several = "together_tokens_per_s"
    return (
        name,
        f"{decode * 1e3:.2f} ms",
        f"{1 / decode:.1f}",
        f"{prefill:.3f} s",
        f"{runs[0]['prompt_tokens']} tokens",
        f"{median_of(runs, several):.1f}/s" if several in runs[0] else "",
        str(len(runs)),
    )


def remarks(results: dict[str, Part]) -> list[str]:
    """Notes on the figures."""
    lines = []
    runs = [run for part in results.values() for group in part.speeds.values() for run in group]
    for arithmetic in {run["arithmetic"] for run in runs if "arithmetic" in run} - {"vllm"}:
        lines.append(f"vLLM's int4 arithmetic: {arithmetic}; its figures do not measure vLLM.")
    if "memory" in results:
        here = results["memory"].also["as_installed"]
        bytes_here = f"{here['resident_bytes'] / 1e6:.0f} MB"
        with_it = "with triton" if here["triton"] else "without triton"
        lines.append(f"Resident in this environment, {with_it}: {bytes_here}.")
    if "billion" in results:
        reads = [read["bytes_per_s"] / 1e9 for read in results["billion"].also["bandwidth"]]
        lines.append(f"Memory is read at {', '.join(f'{r:.1f}' for r in reads)} GB/s.")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
