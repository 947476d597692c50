"""Compare engines: each run is a new process, Salient and a peer alternate.

The speed of a machine varies. So Salient runs right before each peer, ratios are of adjacent runs,
and the result is the median of several ratios.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from subprocess_run import log_step, run

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One engine on one model.

    script: in benchmarks/peers   environment: of interop/environment.sh; '' for Salient's
    """

    name: str
    script: str
    model: Path
    environment: str = ""
    options: tuple[str, ...] = ()


@dataclass
class Contest:
    """The sizes for all engines, the folder for logs, and the results so far."""

    work: Path
    ids: Path
    prompt_tokens: int
    new_tokens: int
    threads: int
    repeats: int
    rounds: int
    results: dict[str, list[Figures]] = field(default_factory=dict)

    def run(self, side: Side, *options: str) -> Figures:
        """Run one new process of `side`; adds its figures to `results`."""
        sizes = {
            "--ids": self.ids,
            "--prompt-tokens": self.prompt_tokens,
            "--new-tokens": self.new_tokens,
            "--repeats": self.repeats,
        }
        arguments = [str(part) for pair in sizes.items() for part in pair]
        figures = self.run_script(
            side.script, side.model, side.environment, *arguments, *side.options
        )
        self.results.setdefault(side.name, []).append(figures)
        return figures

    def run_script(
        self, script: str, model: Path | None, environment: str, *options: str
    ) -> Figures:
        """The JSON of the last line that `script` prints."""
        command = [python(environment), str(PEERS / script), "--threads", str(self.threads)]
        command += [] if model is None else ["--model", str(model)]
        log = self.work / f"{Path(script).stem}.log"
        return json.loads(run([*command, *options], log).out.strip().splitlines()[-1])

    def pairs(self, ours: Side, peers: Sequence[Side]) -> dict[str, list[tuple[Figures, Figures]]]:
        """Run ours and each peer alternately: peer's name -> (ours, its) of each round."""
        rounds: dict[str, list[tuple[Figures, Figures]]] = {peer.name: [] for peer in peers}
        for _ in range(self.rounds):
            for peer in peers:
                rounds[peer.name].append((self.run(ours), self.run(peer)))
        return rounds


def times_faster(pairs: Sequence[tuple[Figures, Figures]], key: str) -> list[float]:
    """The peer's time over ours, of each pair."""
    return [theirs[key] / ours[key] for ours, theirs in pairs]


def median_of(runs: Sequence[Figures], key: str) -> float:
    """The median over processes of a figure."""
    return statistics.median(run[key] for run in runs)


@cache
def python(environment: str) -> str:
    """The Python of a peer's environment, created by the first call; '' is this one."""
    if not environment:
        return sys.executable
    script = [str(ROOT / "interop" / "environment.sh"), environment]
    process = subprocess.run(script, check=False, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        log_step(f"The environment {environment!r} could not be created; the reason is above.")
        raise SystemExit(2)
    return process.stdout.strip()
