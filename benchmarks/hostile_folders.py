"""2,000 hostile model folders through six verbs: no traceback, no code run, bounded in all.

    .venv/bin/python benchmarks/hostile_folders.py [--count 2000] [--seed 1] [--first 0] [--jobs 2]

Each is a tiny model's folder with one to three changes (tests/helpers/hostile_folders.py), and goes
through inspect, plan, doctor, quantize --dry-run, validate and serve (which gets a completion and a
chat), each in a fork with less than 10 s and 2 GiB. A fault is a traceback, an unexpected
exception, exit code 1 without a verdict, a limit exceeded, a signal, or code of the folder that
ran. --processes N: the first N also as real processes. Exit code 1 if anything was at fault.
"""

import argparse
import contextlib
import gc
import importlib
import os
import pkgutil
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import torch
import transformers

import salient

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.forked_verbs import VerbRun, run_verb
from helpers.hostile_folders import CANARY, base_folders, mutate
from helpers.hostile_inputs import hostile_commands

PROCESS_SECONDS = 120  # of a real process, start and imports included
VERBS = ("inspect", "plan", "doctor", "quantize", "validate", "serve")


def main() -> int:
    """Run the folders; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first folder")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--inputs", action="store_true", help="files of options, not folders")
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--verbose", action="store_true", help="print every outcome")
    options = parser.parse_args()
    if options.jobs > 1:
        return _parallel(options)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="salient-hostile-") as place:
        home = Path(place)
        os.environ |= {"HF_HOME": f"{home}/hub", "SALIENT_CACHE": f"{home}/cache"}
        os.environ[CANARY] = str(home / "canary")
        bases = base_folders(home / "bases")
        _import_everything(bases)
        counts: Counter[str] = Counter()
        if options.inputs:
            for number, argv in enumerate(hostile_commands(home, bases)):
                result = run_verb(argv, home)
                fault = _code_ran(home) or result.fault
                counts[f"{argv[0]}: {'FAULT' if fault else f'exit {result.code}'}"] += 1
                if fault or options.verbose:
                    _show(number, "file", argv[-1], result, fault)
            print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
            return 1 if any("FAULT" in name for name in counts) else 0
        return _run_all(options, bases, home)


def _parallel(options: argparse.Namespace) -> int:
    """The same folders over several processes."""
    share = -(-options.count // options.jobs)
    starts = range(options.first, options.first + options.count, share)
    flags = ["--seed", str(options.seed), "--verbs", options.verbs]
    flags += ["--verbose"] if options.verbose else []
    last = options.first + options.count
    jobs: list[subprocess.Popen[bytes]] = []
    for start in starts:
        count = str(min(share, last - start))
        real = str(options.processes if start == options.first else 0)
        own = ["--first", str(start), "--count", count, "--processes", real]
        jobs.append(subprocess.Popen([sys.executable, __file__, *flags, *own]))
    return max(job.wait() for job in jobs)


def _import_everything(bases: dict[str, Path]) -> None:
    """Import what the verbs import, so that forks have it and do not collect it."""
    import uvicorn  # noqa: F401

    for module in pkgutil.walk_packages(salient.__path__, "salient."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(module.name)
    for folder in bases.values():
        transformers.AutoConfig.from_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(next(iter(bases.values())))
    gc.collect()
    gc.freeze()


def _run_all(options: argparse.Namespace, bases: dict[str, Path], home: Path) -> int:
    counts: Counter[str] = Counter()
    worst = {"wall_s": 0.0, "cpu_s": 0.0, "memory": 0.0}
    started = time.monotonic()
    for number in range(options.first, options.first + options.count):
        kind = list(bases)[number % len(bases)]
        folder = home / "folders" / kind
        shutil.rmtree(home / "folders", ignore_errors=True)
        shutil.copytree(bases[kind], folder)
        change = mutate(folder, random.Random(f"{options.seed}:{number}"))
        for verb in options.verbs.split(","):
            argv = command(verb, folder, bases, home)
            result = run_verb(argv, home)
            for name in worst:
                worst[name] = max(worst[name], getattr(result, name))
            fault = _code_ran(home) or result.fault
            counts[f"{verb}: {'FAULT' if fault else f'exit {result.code}'}"] += 1
            if fault or options.verbose:
                _show(number, kind, change, result, fault)
        if (number + 1 - options.first) % 100 == 0:
            print(f"... {number + 1 - options.first} folders", file=sys.stderr, flush=True)
        if number < options.first + options.processes:
            counts.update(_real_processes(number, options.verbs, folder, bases, home))
    minutes = (time.monotonic() - started) / 60
    print(f"{options.count} folders, seed {options.seed}, {minutes:.0f} minutes: ", end="")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(
        f"at most {worst['wall_s']:.1f} s ({worst['cpu_s']:.1f} s of a core), "
        f"{worst['memory'] / 2**20:.0f} MiB"
    )
    return 1 if any("FAULT" in name for name in counts) else 0


def command(verb: str, folder: Path, bases: dict[str, Path], home: Path) -> list[str]:
    """The command line of `verb` for `folder`."""
    where = str(folder)
    is_checkpoint = folder.name in ("awq", "compressed-tensors")
    one, other = (where, str(bases["llama"])) if is_checkpoint else (str(bases["awq"]), where)
    fast = ["--tasks", "off", "--context-lengths", "off", "--load-test", "off"]
    return {
        "inspect": ["inspect", where],
        "plan": ["plan", where, "--gpu", "rtx4090"],
        "doctor": ["doctor", where],
        "quantize": ["quantize", where, "--dry-run", "-o", str(home / "out"), "--scheme", "w4-g32",
                     "--samples", "4", "--sequence-length", "64", "--device", "cpu"],
        "validate": ["validate", one, "--reference", other, *fast, "--samples", "2",
                     "--sequence-length", "64", "--device", "cpu"],
        "serve": ["serve", where, "--engine", "embedded", "--port", "0", "--device", "cpu"],
    }[verb]  # fmt: skip


def _code_ran(home: Path) -> str:
    canary = home / "canary"
    if not canary.exists():
        return ""
    canary.unlink()
    return "code of the folder ran"


def _show(number: int, kind: str, change: str, result: VerbRun, fault: str) -> None:
    print(
        f"{number} {kind} {result.argv[0]}: {change}: exit {result.code}, {result.wall_s:.1f} s, "
        f"{result.memory / 2**20:.0f} MiB: {fault or result.output.strip()[-300:]!r}",
        flush=True,
    )


def _real_processes(
    number: int, verbs: str, folder: Path, bases: dict[str, Path], home: Path
) -> Counter[str]:
    """The same commands as processes of their own; serve is left out."""
    counts: Counter[str] = Counter()
    for verb in set(verbs.split(",")) - {"serve"}:
        argv = [sys.executable, "-m", "salient", *command(verb, folder, bases, home)]
        run = _real_process(verb, argv, folder.parent)
        fault = _code_ran(home) or run.fault
        counts[f"{verb} as a process: {'FAULT' if fault else f'exit {run.code}'}"] += 1
        if fault:
            _show(number, folder.name, "as a process", run, fault)
    return counts


def _real_process(verb: str, argv: list[str], cwd: Path) -> VerbRun:
    start = time.monotonic()
    try:
        result = subprocess.run(argv, capture_output=True, timeout=PROCESS_SECONDS, cwd=cwd)
    except subprocess.TimeoutExpired as slow:
        output = ((slow.stdout or b"") + (slow.stderr or b"")).decode("utf-8", "replace")
        return VerbRun((verb,), -9, output, PROCESS_SECONDS, 0, 0)
    output = (result.stdout + result.stderr).decode("utf-8", "replace")
    return VerbRun((verb,), result.returncode, output, time.monotonic() - start, 0, 0)


if __name__ == "__main__":
    raise SystemExit(main())
