"""Whether `salient validate` tells a good 4-bit checkpoint from a plain and a damaged one, and how
long it takes: the demo model at w4-g64, three checkpoints, one verdict each.

    .venv/bin/python benchmarks/verdicts.py

good      Salient's AWQ on 16 x 512 built-in tokens; judged first, with nothing kept of earlier
          runs, so that its time is that of a first validation. The bar: 20 minutes on 2 cores.
plain     plain rounding with the same scheme
damaged   `good` with the scales of one linear of one block multiplied by 0.3 to 3; attribution must
          name that block first

Each runs in a process of its own as a user starts it. What was kept of earlier validations is moved
away and put back at the end. Writes WORK/verdicts.json and the reports. Exit code 1 if a verdict is
not as it should be, or the bar is missed.
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

from machine import conditions, in_words
from salient import api
from salient.core.report import Report, Table
from salient.core.system import cache_folder
from salient.models.model_folder import model_folder
from subprocess_run import say

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from helpers.rtn_checkpoints import rounded  # noqa: E402  plain rounding, written as we write

MODEL, SCHEME = "smollm2-135m", "w4-g64"
DAMAGED = "model.layers.12.mlp.down_proj"
WANTED = {"good": "pass", "plain": "fail", "damaged": "fail"}
BAR_SECONDS = 20 * 60


def main() -> None:
    """Make the checkpoints, judge them, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".work/bench"))
    parser.add_argument("--policy", default="lenient")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    folders = {name: make(given.work / name) for name, make in MAKERS.items()}
    with nothing_kept():
        found = {name: judged(folder, given.policy) for name, folder in folders.items()}
    data = {**conditions(), "bar_seconds": BAR_SECONDS, "policy": given.policy, "verdicts": found}
    (given.work / "verdicts.json").write_text(json.dumps(data, indent=2) + "\n")
    told(data).show(Console(width=110))
    wrong = [name for name, one in found.items() if one["verdict"] != WANTED[name]]
    blamed = found["damaged"]["worst_block"] == DAMAGED.partition(".mlp")[0]
    sys.exit(bool(wrong) or not blamed or found["good"]["seconds"] > BAR_SECONDS)


def good(folder: Path) -> Path:
    """Salient's own checkpoint."""
    api.quantize(MODEL, str(folder), scheme=SCHEME, samples=16, sequence_length=512)
    return folder


def plain(folder: Path) -> Path:
    """Plain rounding."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder.with_name(f"{folder.name}.pieces"), ignore_errors=True)
    rounded(model_folder(MODEL), folder, SCHEME)
    shutil.rmtree(folder.with_name(f"{folder.name}.pieces"))
    return folder


def damaged(folder: Path) -> Path:
    """The good checkpoint, one linear's scales spoilt."""
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
def nothing_kept() -> Iterator[None]:
    """Earlier validations out of the way for as long as the block lasts."""
    kept = cache_folder() / "validate"
    aside = kept.with_name("validate.aside")
    if kept.exists():
        kept.rename(aside)
    try:
        yield
    finally:
        if aside.exists():
            shutil.rmtree(kept, ignore_errors=True)
            aside.rename(kept)


def judged(folder: Path, policy: str) -> dict[str, Any]:
    """`salient validate` of one checkpoint, as a process; its verdict, figures and seconds."""
    report = folder.with_name(f"{folder.name}-report")
    command = [sys.executable, "-m", "salient", "validate", str(folder), "--fresh"]
    command += ["--reference", MODEL]
    command += ["--policy", policy, "--attribute", "--report", str(report), "--json"]
    say(" ".join(command[2:]))
    started = time.perf_counter()
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    if ran.returncode == 2:
        raise SystemExit(f"{folder} could not be judged:\n{ran.stdout[-2000:]}")
    data = json.loads(ran.stdout)
    report.with_suffix(".json").write_text(ran.stdout)
    return {"seconds": seconds, "exit_code": ran.returncode, **figures(data)}


def figures(data: dict[str, Any]) -> dict[str, Any]:
    """What the table tells of a validation's JSON."""
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


def told(data: dict[str, Any]) -> Report:
    """The table of verdicts: a row each, a column for each rule."""
    found = data["verdicts"]
    rules = list(dict.fromkeys(rule for one in found.values() for rule in one["rules"]))
    rows = []
    for name, one in found.items():
        values = [_mark(*one["rules"].get(rule, [None, None])) for rule in rules]
        blamed = f"{one['worst_block']} ({one['worst_block_kl']:.3f})"
        rows.append((name, one["verdict"], *values, blamed, f"{one['seconds'] / 60:.1f}"))
    columns = ("", "verdict", *rules, "worst block (KL)", "min")
    title = f"salient validate, policy {data['policy']}"
    return Report(data, [Table(title, columns, rows)], [in_words(data)])


def _mark(value: float | None, passed: bool | None) -> str:  # noqa: FBT001  a rule's two fields
    if value is None:
        return "not measured"
    return f"{value:.3f}" + ("" if passed else " FAILS")


if __name__ == "__main__":
    main()
