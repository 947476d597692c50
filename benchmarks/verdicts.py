"""Verdicts of `salient validate` on a good, a plainly rounded and a damaged 4-bit checkpoint of the
demo model (w4-g64), and the time of a validation.

    .venv/bin/python benchmarks/verdicts.py

good      Salient's AWQ on 16 x 512 built-in tokens; validated first and without a cache, so that
          its time is that of a first validation. The bar: 20 minutes on 2 cores.
plain     rounding to nearest with the same scheme
damaged   `good` with the scales of one linear of one block multiplied by 0.3 to 3; attribution must
          rank that block first

Each runs as a process. The cache of earlier validations is moved away and restored at the end.
Writes WORK/verdicts.json and the reports. Exit code 1 if a verdict is wrong or the bar is missed.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from machine import conditions, conditions_line
from salient import api
from salient.core.report import Report, Table
from salient.core.system import cache_folder
from salient.models.model_folder import model_folder
from subprocess_run import log_step

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from helpers.rtn_checkpoints import rounded  # noqa: E402  rounding to nearest

MODEL, SCHEME = "smollm2-135m", "w4-g64"
DAMAGED = "model.layers.12.mlp.down_proj"
EXPECTED = {"good": "pass", "plain": "fail", "damaged": "fail"}
BAR_SECONDS = 20 * 60


def main() -> None:
    """Write the checkpoints, validate them, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".work/bench"))
    parser.add_argument("--policy", default="lenient")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folders = {name: make(options.work / name) for name, make in MAKERS.items()}
    with empty_cache():
        verdicts = {name: validated(folder, options.policy) for name, folder in folders.items()}
    data = {**conditions(), "bar_seconds": BAR_SECONDS, "policy": options.policy}
    data["verdicts"] = verdicts
    (options.work / "verdicts.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=110))
    wrong = [name for name, one in verdicts.items() if one["verdict"] != EXPECTED[name]]
    blamed = verdicts["damaged"]["worst_block"] == DAMAGED.partition(".mlp")[0]
    sys.exit(bool(wrong) or not blamed or verdicts["good"]["seconds"] > BAR_SECONDS)


def good(folder: Path) -> Path:
    """Salient's own checkpoint."""
    api.quantize(MODEL, str(folder), scheme=SCHEME, samples=16, sequence_length=512)
    return folder


def plain(folder: Path) -> Path:
    """Rounding to nearest."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder.with_name(f"{folder.name}.pieces"), ignore_errors=True)
    rounded(model_folder(MODEL), folder, SCHEME)
    shutil.rmtree(folder.with_name(f"{folder.name}.pieces"))
    return folder


def damaged(folder: Path) -> Path:
    """The good checkpoint with damaged scales of one linear."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folder.with_name("good"), folder)
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    random = torch.Generator().manual_seed(0)
    scales = tensors[f"{DAMAGED}.scales"]
    factors = 0.3 + 2.7 * torch.rand(scales.shape, generator=random)
    tensors[f"{DAMAGED}.scales"] = (scales * factors).to(scales.dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


MAKERS = {"good": good, "plain": plain, "damaged": damaged}


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """Move the cache of earlier validations away during the block."""
    cache = cache_folder() / "validate"
    aside = cache.with_name("validate.aside")
    if cache.exists():
        cache.rename(aside)
    try:
        yield
    finally:
        if aside.exists():
            shutil.rmtree(cache, ignore_errors=True)
            aside.rename(cache)


def validated(folder: Path, policy: str) -> dict[str, Any]:
    """`salient validate` of one checkpoint, as a process; its verdict, figures and seconds."""
    report_folder = folder.with_name(f"{folder.name}-report")
    command = [sys.executable, "-m", "salient", "validate", str(folder), "--fresh"]
    command += ["--reference", MODEL]
    command += ["--policy", policy, "--attribute", "--report", str(report_folder), "--json"]
    log_step(" ".join(command[2:]))
    started = time.perf_counter()
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    if ran.returncode == 2:
        raise SystemExit(f"{folder} could not be validated:\n{ran.stdout[-2000:]}")
    data = json.loads(ran.stdout)
    report_folder.with_suffix(".json").write_text(ran.stdout)
    return {"seconds": seconds, "exit_code": ran.returncode, **figures(data)}


def figures(data: dict[str, Any]) -> dict[str, Any]:
    """The figures of the table, from a validation's JSON."""
    blocks = data["attribution"]["blocks"]
    worst = max(blocks, key=lambda row: row["kl"])
    return {
        "verdict": data["verdict"]["verdict"],
        "rules": {
            f"{rule['stage']} {rule['what']}": [rule["value"], rule["passed"]]
            for rule in data["verdict"]["rules"]
        },
        "worst_block": worst["name"],
        "worst_block_kl": worst["kl"],
        "blocks_kl": sum(row["kl"] for row in blocks),
    }


def report(data: dict[str, Any]) -> Report:
    """The table of verdicts: a row per checkpoint, a column per rule."""
    verdicts = data["verdicts"]
    rules = list(dict.fromkeys(rule for one in verdicts.values() for rule in one["rules"]))
    rows = []
    for name, one in verdicts.items():
        values = [_mark(*one["rules"].get(rule, [None, None])) for rule in rules]
        blamed = f"{one['worst_block']} ({one['worst_block_kl']:.3f})"
        rows.append((name, one["verdict"], *values, blamed, f"{one['seconds'] / 60:.1f}"))
    columns = ("", "verdict", *rules, "worst block (KL)", "min")
    title = f"salient validate, policy {data['policy']}"
    return Report(data, [Table(title, columns, rows)], [conditions_line(data)])


def _mark(value: float | None, passed: bool | None) -> str:  # noqa: FBT001  a rule's two fields
    if value is None:
        return "not measured"
    return f"{value:.3f}" + ("" if passed else " FAILS")


if __name__ == "__main__":
    main()
